"""The loops of rendering and voxelising, compiled: textures, sky, surfaces, light; votes and insides of voxels.

They take plain arrays only; `textures`, `sky`, `shading` and `ground_truth` prepare them. The test
of `ground_truth` has a readable twin of the votes.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba infers the types of these loops; their arrays' shapes are in the docstrings.

import numpy as np

from scene_completion_ros.jit import inlined, kernel

OTHER, GROUND, LEAF, WALL = 0, 1, 2, 3  # kinds of surfaces that are shaded differently
CLOUD_SCALE = 90.0  # texels per unit of the plane the clouds lie in
DIRT_TEXELS = (1.7, 6.25, 45.0)  # per metre, of three octaves: stains, patches, grain


@kernel(parallel=False)
def turn(directions, rotation, out):
    """Fills out [N, 3] with rotation [3, 3] times each direction; a matrix product would start threads for this."""
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        for c in range(3):
            out[i, c] = rotation[c, 0] * x + rotation[c, 1] * y + rotation[c, 2] * z


@inlined
def texel_at(texture, u, v, footprint, offsets, sizes, texels, linear):
    """Linear colour and gloss of one point, a tuple of four, bilinear in the pyramid level that fits the footprint.

    `u`: tile coordinate to the right; `v`: tile coordinate upwards; `footprint`: side of a pixel's patch in texels of
    the finest level.
    """
    depth = offsets.shape[1]
    level = min(max(int(np.rint(np.log2(max(footprint, 1e-6)))), 0), depth - 1)
    height, width = sizes[texture, level, 0], sizes[texture, level, 1]
    x = (u - np.floor(u)) * width - 0.5
    y = (1.0 - (v - np.floor(v))) * height - 0.5
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    left, top = int(x0) & (width - 1), int(y0) & (height - 1)
    right, bottom = (left + 1) & (width - 1), (top + 1) & (height - 1)
    upper, lower = offsets[texture, level] + top * width, offsets[texture, level] + bottom * width
    a, b, c, d = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    p, q, r, t = texels[upper + left], texels[upper + right], texels[lower + left], texels[lower + right]
    red = a * linear[p[0]] + b * linear[q[0]] + c * linear[r[0]] + d * linear[t[0]]
    green = a * linear[p[1]] + b * linear[q[1]] + c * linear[r[1]] + d * linear[t[1]]
    blue = a * linear[p[2]] + b * linear[q[2]] + c * linear[r[2]] + d * linear[t[2]]
    gloss = (a * p[3] + b * q[3] + c * r[3] + d * t[3]) / 255.0
    return red, green, blue, gloss


@inlined
def sky_at(x, y, z, colours, sun, cloudiness, cover, shade, hills):
    """Linear colour seen along one unit direction, a tuple of three.

    `colours`: horizon, zenith, sun and hills, [4, 3]; `cover`, `shade`: how thick and how light clouds are, [T, T];
    `hills`: elevation of the hills by azimuth, [A, 2]: the far ones and the near ones, radians.
    """
    up = min(max(z, 0.0), 1.0)
    row = int((np.arctan2(y, x) / (2.0 * np.pi) + 0.5) * hills.shape[0]) % hills.shape[0]
    if z < hills[row, 1]:
        return colours[3, 0], colours[3, 1], colours[3, 2]
    if z < hills[row, 0]:
        red, green = 0.45 * colours[3, 0] + 0.55 * colours[0, 0], 0.45 * colours[3, 1] + 0.55 * colours[0, 1]
        return red, green, 0.45 * colours[3, 2] + 0.55 * colours[0, 2]
    blend = np.sqrt(up)
    towards = min(max(x * sun[0] + y * sun[1] + z * sun[2], 0.0), 1.0)
    clear = (1.0 - 0.9 * cloudiness) * (0.25 * towards**12 + 3.0 * towards**900)
    size = cover.shape[0]
    column = int(x / (up + 0.10) * CLOUD_SCALE) & (size - 1)
    line = int(y / (up + 0.10) * CLOUD_SCALE) & (size - 1)
    cloud = cover[line, column] * min(up * 6.0, 1.0)
    light = shade[line, column]
    red = (colours[0, 0] * (1 - blend) + colours[1, 0] * blend + colours[2, 0] * clear) * (1 - cloud)
    green = (colours[0, 1] * (1 - blend) + colours[1, 1] * blend + colours[2, 1] * clear) * (1 - cloud)
    blue = (colours[0, 2] * (1 - blend) + colours[1, 2] * blend + colours[2, 2] * clear) * (1 - cloud)
    return red + 0.92 * light * cloud, green + 0.93 * light * cloud, blue + 0.95 * light * cloud


@kernel(parallel=False)
def sky_seen(directions, colours, sun, cloudiness, cover, shade, hills, out):
    """Fills out [N, 3] with the linear colour of the sky in each direction."""
    for i in range(len(directions)):
        out[i, 0], out[i, 1], out[i, 2] = sky_at(
            directions[i, 0], directions[i, 1], directions[i, 2], colours, sun, cloudiness, cover, shade, hills
        )


@inlined
def _dirt(tile, x, y):
    """Bilinear value of a periodic tile."""
    size = tile.shape[0]
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    i, j = int(x0) & (size - 1), int(y0) & (size - 1)
    k, m = (i + 1) & (size - 1), (j + 1) & (size - 1)
    return (tile[j, i] * (1 - fx) + tile[j, k] * fx) * (1 - fy) + (tile[m, i] * (1 - fx) + tile[m, k] * fx) * fy


@kernel(parallel=False)
def surfaces_seen(
    origin, directions, distance, triangle, weight_b, weight_c, uv, normals, texture, tint, density, kind, offsets,
    sizes, texels, linear, dirt, strength, pixel_angle, sun, point, normal, albedo, lit, facing
):  # fmt: skip
    """Fills point [N, 3], normal [N, 3], albedo and gloss [N, 4], sunlight [N] and cosine to the viewer [N]."""
    for i in range(len(triangle)):
        f = triangle[i]
        b, c = weight_b[i], weight_c[i]
        a = 1.0 - b - c
        nx = a * normals[f, 0, 0] + b * normals[f, 1, 0] + c * normals[f, 2, 0]
        ny = a * normals[f, 0, 1] + b * normals[f, 1, 1] + c * normals[f, 2, 1]
        nz = a * normals[f, 0, 2] + b * normals[f, 1, 2] + c * normals[f, 2, 2]
        length = 1.0 / max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
        nx, ny, nz = nx * length, ny * length, nz * length
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        towards = nx * dx + ny * dy + nz * dz
        if towards > 0 and kind[f] != LEAF:  # faces are seen from both sides
            nx, ny, nz = -nx, -ny, -nz
        towards = abs(towards)
        t = distance[i]
        x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
        # The patch a pixel covers is stretched by 1/cosine; the geometric mean keeps flat views from blurring away.
        patch = t * pixel_angle / np.sqrt(max(towards, 0.02))
        u = a * uv[f, 0, 0] + b * uv[f, 1, 0] + c * uv[f, 2, 0]
        v = a * uv[f, 0, 1] + b * uv[f, 1, 1] + c * uv[f, 2, 1]
        red, green, blue, gloss = texel_at(texture[f], u, v, patch * density[f], offsets, sizes, texels, linear)
        if abs(nz) > 0.7:
            p, q = x, y
        else:  # along a wall, and up
            flat = 1.0 / max(np.sqrt(nx * nx + ny * ny), 1e-6)
            p, q = (y * nx - x * ny) * flat, z
        gain = 1.0
        for octave in range(3):
            amount = strength[kind[f], octave]
            if patch * DIRT_TEXELS[octave] < 1.5:  # finer than a pixel it would only flicker
                gain += amount * _dirt(dirt, p * DIRT_TEXELS[octave], q * DIRT_TEXELS[octave])
        gain = max(gain, 0.25)
        albedo[i, 0], albedo[i, 1] = red * tint[f, 0] * gain, green * tint[f, 1] * gain
        albedo[i, 2], albedo[i, 3] = blue * tint[f, 2] * gain, gloss
        cosine = nx * sun[0] + ny * sun[1] + nz * sun[2]
        lit[i] = 0.3 + 0.7 * cosine if kind[f] == LEAF else cosine  # light shines through leaves
        point[i, 0], point[i, 1], point[i, 2] = x, y, z
        normal[i, 0], normal[i, 1], normal[i, 2] = nx, ny, nz
        facing[i] = towards


@kernel(parallel=False)
def lit(
    directions, distance, point, normal, albedo, direct, facing, is_ground, openness, corner, cell, sun_colour, ambient,
    air, haze, colours, sun, cloudiness, cover, shade, hills, out
):  # fmt: skip
    """Fills the colour [N, 3] of surfaces in sun and sky, with reflections and haze."""
    rows, columns = openness.shape
    for i in range(len(distance)):
        free = 1.0
        if is_ground[i]:
            px = min(max((point[i, 0] - corner[0]) / cell - 0.5, 0.0), rows - 1.001)
            py = min(max((point[i, 1] - corner[1]) / cell - 0.5, 0.0), columns - 1.001)
            j, k = int(px), int(py)
            fx, fy = px - j, py - k
            low = openness[j, k] * (1 - fy) + openness[j, k + 1] * fy
            free = low * (1 - fx) + (openness[j + 1, k] * (1 - fy) + openness[j + 1, k + 1] * fy) * fx
        nx, ny, nz = normal[i, 0], normal[i, 1], normal[i, 2]
        up = 0.5 + 0.5 * nz
        clear = np.exp(-distance[i] / haze)
        share = 0.0
        mirrored = (0.0, 0.0, 0.0)
        if albedo[i, 3] > 0.02:
            cosine = facing[i]
            mx = directions[i, 0] + 2.0 * cosine * nx
            my = directions[i, 1] + 2.0 * cosine * ny
            mz = directions[i, 2] + 2.0 * cosine * nz
            below = min(max(0.5 - 4.0 * mz, 0.0), 1.0)  # the street reflected instead of the sky
            red, green, blue = sky_at(mx, my, max(mz, 0.12), colours, sun, cloudiness, cover, shade, hills)
            rest = 0.10 * below
            mirrored = (red * (1 - below) + rest, green * (1 - below) + rest, blue * (1 - below) + rest)
            share = albedo[i, 3] * (0.22 + 0.78 * (1.0 - cosine) ** 4)
        for c in range(3):
            sky = ambient[c] * (0.25 + 0.75 * up) * free + 0.12 * (1 - up) * sun_colour[c]
            colour = albedo[i, c] * (direct[i] * sun_colour[c] + 0.6 * sky)
            colour = colour * (1 - share) + mirrored[c] * share
            out[i, c] = colour * clear + air[c] * (1 - clear)


@inlined
def _voxel(x, y, z, origin, size, shape):
    """Flat index of the voxel that a point lies in, -1 outside."""
    i, j, k = np.floor((x - origin[0]) / size), np.floor((y - origin[1]) / size), np.floor((z - origin[2]) / size)
    if not (0 <= i < shape[0] and 0 <= j < shape[1] and 0 <= k < shape[2]):
        return -1
    return (int(i) * shape[1] + int(j)) * shape[2] + int(k)


@kernel(parallel=False)
def vote_triangles(corners, start, names, spacing, origin, size, shape, label):
    """Fills the class [V] with most surface samples per voxel; of two, the later one.

    `corners`: triangles [F, 3, 3] sorted by class; those of class n begin at start[n].
    """
    best, votes = np.zeros(len(label), np.int32), np.zeros(len(label), np.int32)
    touched = np.empty(len(label), np.int64)
    for n in range(len(names)):
        filled = 0
        for f in range(start[n], start[n + 1]):
            longest = 0.0
            for a in range(3):
                b = (a + 1) % 3
                x, y = corners[f, a, 0] - corners[f, b, 0], corners[f, a, 1] - corners[f, b, 1]
                z = corners[f, a, 2] - corners[f, b, 2]
                longest = max(longest, np.sqrt(x * x + y * y + z * z))
            steps = int(2 ** np.ceil(np.log2(max(longest / spacing, 1.0))))
            for i in range(steps + 1):
                for j in range(steps + 1 - i):
                    p, q, r = (steps - i - j) / steps, i / steps, j / steps
                    x = p * corners[f, 0, 0] + q * corners[f, 1, 0] + r * corners[f, 2, 0]
                    y = p * corners[f, 0, 1] + q * corners[f, 1, 1] + r * corners[f, 2, 1]
                    z = p * corners[f, 0, 2] + q * corners[f, 1, 2] + r * corners[f, 2, 2]
                    cell = _voxel(x, y, z, origin, size, shape)
                    if cell >= 0:
                        if votes[cell] == 0:
                            touched[filled] = cell
                            filled += 1
                        votes[cell] += 1
        for cell in touched[:filled]:
            if votes[cell] >= best[cell]:
                best[cell] = votes[cell]
                label[cell] = names[n]
            votes[cell] = 0


@kernel(parallel=False)
def fill_convex(normals, offsets, low, high, origin, size, name, label):
    """Label free voxels [X, Y, Z] whose centres lie behind all planes, within index bounds."""
    for i in range(low[0], high[0]):
        x = origin[0] + (i + 0.5) * size
        for j in range(low[1], high[1]):
            y = origin[1] + (j + 0.5) * size
            for k in range(low[2], high[2]):
                if label[i, j, k] != 0:
                    continue
                z = origin[2] + (k + 0.5) * size
                inside = True
                for f in range(len(offsets)):
                    if normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z > offsets[f] + 1e-6:
                        inside = False
                        break
                if inside:
                    label[i, j, k] = name
