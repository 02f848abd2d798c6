"use strict";
// Frame slider and a small WebGL 2 viewer of voxels. Grid frame: x forward, y left, z up, metres.
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const frameCount = report.frames;
  if (frameCount === 0) { document.body.dataset.drawn = "0"; return; }

  // ---- data ---------------------------------------------------------------------------------------------------------
  const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  async function inflate(base64) {
    const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter(), chunks = [];
    writer.write(bytesOf(base64)).then(() => writer.close());
    for (const reader = stream.readable.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
    }
    const out = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    let place = 0;
    for (const chunk of chunks) { out.set(chunk, place); place += chunk.length; }
    return out;
  }
  function unpackVoxels(bytes, count, shape) {
    const cells = new Uint16Array(count * 4);
    let flat = 0;
    for (let i = 0; i < count; i++) {
      flat += bytes[i] + bytes[count + i] * 256 + bytes[2 * count + i] * 65536 + bytes[3 * count + i] * 16777216;
      const column = Math.floor(flat / shape[2]);
      cells[4 * i] = Math.floor(column / shape[1]);
      cells[4 * i + 1] = column % shape[1];
      cells[4 * i + 2] = flat % shape[2];
    }
    const plane = (k) => bytes.subarray(k * count, (k + 1) * count);
    return { count, cells, label: plane(4), state: plane(5), probability: plane(6) };
  }
  function unpackLidar(bytes, origin) {
    const count = bytes.length / 6, points = new Float32Array(count * 3);
    for (let i = 0; i < count; i++)
      for (let axis = 0; axis < 3; axis++)
        points[3 * i + axis] = origin[axis]
          + (bytes[2 * axis * count + i] + 256 * bytes[(2 * axis + 1) * count + i] + 0.5) * report.lidarResolution;
    return points;
  }

  // ---- matrices (column-major) ----------------------------------------------------------------------------------------
  const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => { const n = Math.hypot(...a); return a.map((v) => v / n); };
  function multiply(a, b) {
    const out = new Float32Array(16);
    for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++)
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
    return out;
  }
  function lookAt(eye, target, up) {
    const back = unit(sub(eye, target)), right = unit(cross(up, back)), top = cross(back, right);
    return [right[0], top[0], back[0], 0, right[1], top[1], back[1], 0, right[2], top[2], back[2], 0,
      -dot(right, eye), -dot(top, eye), -dot(back, eye), 1];
  }
  function perspective(fovY, aspect, near, far) {
    const f = 1 / Math.tan(fovY / 2);
    return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0];
  }

  // ---- drawing --------------------------------------------------------------------------------------------------------
  const cubeVertex = `#version 300 es
    uniform mat4 projection; uniform vec3 eye, origin; uniform float size;
    in vec3 cell; in vec4 colour; out vec3 shaded; out vec2 onFace;
    const vec2 corners[6] = vec2[6](vec2(0,0), vec2(1,0), vec2(1,1), vec2(0,0), vec2(1,1), vec2(0,1));
    void main() {                       // of a cube's six faces only the three towards the eye are drawn
      int axis = gl_VertexID / 6;
      vec2 c = corners[gl_VertexID % 6];
      vec3 low = origin + cell * size;
      vec3 side = step(low + 0.5 * size, eye);
      vec3 p = axis == 0 ? vec3(side.x, c) : axis == 1 ? vec3(c.x, side.y, c.y) : vec3(c, side.z);
      float light = axis == 2 ? mix(0.5, 1.0, side.z) : axis == 1 ? mix(0.78, 0.88, side.y) : 0.7;
      shaded = colour.rgb * light; onFace = c;
      gl_Position = projection * vec4(low + p * size, 1.0);
    }`;
  const cubeFragment = `#version 300 es
    precision mediump float;
    in vec3 shaded; in vec2 onFace; out vec4 pixel;
    void main() {
      vec2 width = fwidth(onFace);
      vec2 border = smoothstep(vec2(0.0), 1.5 * width, min(onFace, 1.0 - onFace));
      float near = 1.0 - smoothstep(0.1, 0.4, max(width.x, width.y));
      pixel = vec4(shaded * mix(1.0, mix(0.72, 1.0, min(border.x, border.y)), near), 1.0);
    }`;
  const plainVertex = `#version 300 es
    uniform mat4 projection; uniform vec3 eye; uniform float nearer;
    in vec3 position; in vec3 colour; out vec3 shaded;
    void main() {                       // points come nearer to the eye, or the cubes around them would hide them
      shaded = colour; gl_PointSize = 2.0;
      gl_Position = projection * vec4(position + nearer * normalize(eye - position), 1.0);
    }`;
  const plainFragment = `#version 300 es
    precision mediump float; in vec3 shaded; out vec4 pixel; void main() { pixel = vec4(shaded, 1.0); }`;

  const sceneBox = byId("scene"), canvas = byId("view"), labels = byId("labels");
  const gl = canvas.getContext("webgl2", { antialias: true });
  const palettes = report.palettes;
  let frame = null, ready = false, wanted = 0;
  const FIELD_OF_VIEW = 0.8;             // radians, from bottom to top
  const view = { azimuth: 0, elevation: 0, distance: 1, target: [0, 0, 0] };

  function program(vertex, fragment) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text); gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return { made, at: (n) => gl.getUniformLocation(made, n), attribute: (n) => gl.getAttribLocation(made, n) };
  }
  function mesh(shader, buffers) {       // buffers: {name: [components, type, normalised, divisor]}
    const made = { array: gl.createVertexArray(), buffers: {}, count: 0 };
    gl.bindVertexArray(made.array);
    for (const [name, [components, type, normalised, divisor]] of Object.entries(buffers)) {
      made.buffers[name] = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, made.buffers[name]);
      const place = shader.attribute(name);
      gl.enableVertexAttribArray(place);
      const bytes = { [gl.FLOAT]: 4, [gl.UNSIGNED_SHORT]: 2, [gl.UNSIGNED_BYTE]: 1 }[type];
      gl.vertexAttribPointer(place, components, type, normalised, Math.ceil(components * bytes / 4) * 4, 0);
      gl.vertexAttribDivisor(place, divisor);
    }
    gl.bindVertexArray(null);
    return made;
  }
  function fill(made, name, data) { gl.bindBuffer(gl.ARRAY_BUFFER, made.buffers[name]); gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW); }
  let cubeProgram, plainProgram, cubes, lines, points;
  function prepare() {
    cubeProgram = program(cubeVertex, cubeFragment);
    plainProgram = program(plainVertex, plainFragment);
    cubes = mesh(cubeProgram, { cell: [3, gl.UNSIGNED_SHORT, false, 1], colour: [4, gl.UNSIGNED_BYTE, true, 1] });
    const plain = { position: [3, gl.FLOAT, false, 0], colour: [3, gl.FLOAT, false, 0] };
    lines = mesh(plainProgram, plain);
    points = mesh(plainProgram, plain);
    gl.enable(gl.DEPTH_TEST);
    ready = true;
  }

  const checked = (id) => byId(id).checked;
  function shownOf({ voxels }) {         // whether voxel i is shown
    const floor = Number(byId("probability").value) * 255, show = { 3: checked("show-surface"), 4: checked("show-completed") };
    return (i) => show[voxels.state[i]] && voxels.probability[i] >= floor;
  }
  function uploadVoxels() {
    const { voxels, grid } = frame, mode = byId("colours").value, shown = shownOf(frame);
    const cells = new Uint16Array(voxels.count * 4), colours = new Uint8Array(voxels.count * 4);
    let n = 0;
    for (let i = 0; i < voxels.count; i++) {
      if (!shown(i)) continue;
      cells.set(voxels.cells.subarray(4 * i, 4 * i + 4), 4 * n);
      let place;
      if (mode === "class") place = voxels.label[i];
      else if (mode === "state") place = voxels.state[i];
      else if (mode === "probability") place = voxels.probability[i];
      else {
        const height = grid.origin[2] + (voxels.cells[4 * i + 2] + 0.5) * grid.size, [low, high] = report.heightRange;
        place = Math.round(255 * Math.min(1, Math.max(0, (height - low) / (high - low))));
      }
      for (let k = 0; k < 3; k++) colours[4 * n + k] = palettes[mode][3 * place + k];
      if (frame.lit) light(i, colours, 4 * n);
      n++;
    }
    fill(cubes, "cell", cells.subarray(0, 4 * n));
    fill(cubes, "colour", colours.subarray(0, 4 * n));
    cubes.count = n;
  }

  // ---- words: of each voxel a bit says whether it matches; those that are lit colour the voxels ------------------------
  const lit = new Set();
  const matches = (word, i) => (frame.matches[(word >> 3) * frame.voxels.count + i] >> (word & 7)) & 1;
  function matched() {                   // of the lit words the first that a voxel matches, -1 where it matches none
    const found = new Int16Array(frame.voxels.count).fill(-1);
    if (frame.matches) for (const word of lit) for (let i = 0; i < found.length; i++)
      if (found[i] < 0 && matches(word, i)) found[i] = word;
    return found;
  }
  function light(i, colours, at) {       // what matches nothing fades
    const own = report.wordColours[frame.lit[i]];
    for (let k = 0; k < 3; k++) colours[at + k] = own ? own[k] : 0.2 * colours[at + k] + 180;
  }
  function answer() {
    if (!wordButtons.length) return;
    frame.lit = lit.size ? matched() : null;
    for (const button of wordButtons) {
      const word = Number(button.dataset.word);
      button.setAttribute("aria-pressed", String(lit.has(word)));
      button.disabled = !lit.has(word) && !offered(word);
    }
    byId("no-word").setAttribute("aria-pressed", String(!lit.size));
    const said = byId("matching"), number = (value) => value.toLocaleString("en");
    if (!said.dataset.help) said.dataset.help = said.textContent;
    if (!lit.size) said.textContent = said.dataset.help;
    else if (!frame.matches) said.textContent = "The words were not answered for this frame.";
    else said.textContent = `${[...lit].map((w) => report.words[w]).join(", ")}: `
      + `${number(frame.lit.reduce((sum, w) => sum + (w >= 0), 0))} of ${number(frame.voxels.count)} voxels match`;
  }
  function offered(word) {
    for (let i = 0; frame.matches && i < frame.voxels.count; i++) if (matches(word, i)) return true;
    return false;
  }
  const wordButtons = document.querySelectorAll("[data-word]");
  function press(word) {
    if (word < 0) lit.clear();
    else if (!lit.delete(word)) lit.add(word);
    if (frame) { answer(); reload(); }
  }
  if (wordButtons.length) {
    for (const button of wordButtons) button.addEventListener("click", () => press(Number(button.dataset.word)));
    byId("no-word").addEventListener("click", () => press(-1));
    document.addEventListener("keydown", (e) => { if (e.key === "Escape") press(-1); });
  }

  function uploadLines() {
    const { grid, camera } = frame, position = [], colour = [];
    const add = (a, b, c) => { position.push(...a, ...b); colour.push(...c, ...c); };
    const [x0, y0, z0] = grid.origin, [x1, y1, z1] = grid.origin.map((o, i) => o + grid.shape[i] * grid.size);
    for (const x of ticks(x0, x1)) add([x, y0, z0], [x, y1, z0], [0.75, 0.77, 0.8]);
    for (const y of ticks(y0, y1)) add([x0, y, z0], [x1, y, z0], [0.75, 0.77, 0.8]);
    for (const [a, b] of [[[x0, y0], [x1, y0]], [[x1, y0], [x1, y1]], [[x1, y1], [x0, y1]], [[x0, y1], [x0, y0]]]) {
      add([...a, z0], [...b, z0], [0.45, 0.47, 0.5]);
      add([...a, z1], [...b, z1], [0.8, 0.82, 0.85]);
      add([...a, z0], [...a, z1], [0.8, 0.82, 0.85]);
    }
    const corners = camera.corners, red = [0.8, 0.1, 0.1];
    corners.forEach((corner, i) => { add(camera.position, corner, red); add(corner, corners[(i + 1) % corners.length], red); });
    fill(lines, "position", new Float32Array(position));
    fill(lines, "colour", new Float32Array(colour));
    lines.count = position.length / 3;
  }
  function uploadLidar() {
    fill(points, "position", frame.lidar);
    fill(points, "colour", new Float32Array(frame.lidar.length));
    points.count = frame.lidar.length / 3;
  }
  function ticks(low, high) {
    const step = high - low > 25 ? 10 : high - low > 12 ? 5 : 1, found = [];
    for (let v = Math.ceil(low / step - 1e-6) * step; v <= high + 1e-6; v += step) found.push(v);
    return found;
  }

  function seenFrom() {                  // the eye, and what is up for it
    const { azimuth: a, elevation: e, distance: d, target: t } = view;
    const eye = [t[0] + d * Math.cos(e) * Math.cos(a), t[1] + d * Math.cos(e) * Math.sin(a), t[2] + d * Math.sin(e)];
    return { eye, up: e > 1.5 ? [-Math.cos(a), -Math.sin(a), 0] : [0, 0, 1] };
  }
  function draw() {
    wanted = 0;
    if (!ready || !frame) return;
    const ratio = window.devicePixelRatio || 1, width = sceneBox.clientWidth, height = sceneBox.clientHeight;
    for (const c of [canvas, labels])
      if (c.width !== Math.round(width * ratio) || c.height !== Math.round(height * ratio)) {
        c.width = Math.round(width * ratio); c.height = Math.round(height * ratio);
      }
    const { eye, up } = seenFrom();
    const projection = multiply(perspective(FIELD_OF_VIEW, width / height, 0.1, 1000), lookAt(eye, view.target, up));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.97, 0.973, 0.98, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(plainProgram.made);
    gl.uniformMatrix4fv(plainProgram.at("projection"), false, projection);
    gl.uniform3fv(plainProgram.at("eye"), eye);
    gl.uniform1f(plainProgram.at("nearer"), 0);
    gl.bindVertexArray(lines.array);
    gl.drawArrays(gl.LINES, 0, lines.count);
    if (points.count && checked("show-lidar")) {
      gl.uniform1f(plainProgram.at("nearer"), 1.8 * frame.grid.size);
      gl.bindVertexArray(points.array);
      gl.drawArrays(gl.POINTS, 0, points.count);
    }
    gl.useProgram(cubeProgram.made);
    gl.uniformMatrix4fv(cubeProgram.at("projection"), false, projection);
    gl.uniform3fv(cubeProgram.at("eye"), eye);
    gl.uniform3fv(cubeProgram.at("origin"), frame.grid.origin);
    gl.uniform1f(cubeProgram.at("size"), frame.grid.size);
    gl.bindVertexArray(cubes.array);
    gl.drawArraysInstanced(gl.TRIANGLES, 0, 18, cubes.count);
    drawLabels(projection, width, height, ratio);
    const trouble = gl.getError();
    document.body.dataset[trouble ? "glError" : "drawn"] = String(trouble || cubes.count);
  }
  function drawLabels(projection, width, height, ratio) {
    const pen = labels.getContext("2d"), { origin, shape, size } = frame.grid;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif"; pen.fillStyle = "#333"; pen.textAlign = "center";
    pen.strokeStyle = "#f7f8fa"; pen.lineWidth = 3;
    const placed = ([x, y, z], put) => {
      const p = [0, 1, 3].map((r) => projection[r] * x + projection[4 + r] * y + projection[8 + r] * z + projection[12 + r]);
      if (p[2] >= 0.1) put((0.5 + 0.5 * p[0] / p[2]) * width, (0.5 - 0.5 * p[1] / p[2]) * height);
    };
    const write = (words, point) => placed(point, (...at) => { pen.strokeText(words, ...at); pen.fillText(words, ...at); });
    const end = origin.map((o, i) => o + shape[i] * size);
    for (const x of ticks(origin[0], end[0])) write(`x ${x} m`, [x, origin[1] - 1, origin[2]]);
    for (const y of ticks(origin[1], end[1])) write(`y ${y} m`, [end[0] + 1, y, origin[2]]);
  }
  const redraw = () => { if (!wanted) wanted = requestAnimationFrame(draw); };
  const reload = () => { if (ready && frame) { uploadVoxels(); redraw(); } };

  // ---- the view, turned by the mouse --------------------------------------------------------------------------------
  function viewpoint(name) {
    const { origin, shape, size } = frame.grid, camera = frame.camera.position, heading = frame.camera.heading;
    const middle = origin.map((o, i) => o + 0.5 * shape[i] * size), reach = Math.max(shape[0], shape[1]) * size;
    if (name === "top") Object.assign(view, { azimuth: heading + Math.PI, elevation: 1.56, distance: 1.25 * reach, target: middle });
    else if (name === "side") Object.assign(view, { azimuth: heading - 0.75 * Math.PI, elevation: 0.55, distance: reach, target: [middle[0], middle[1], origin[2]] });
    else {
      const ahead = 0.25 * reach;
      const target = [camera[0] + ahead * Math.cos(heading), camera[1] + ahead * Math.sin(heading), camera[2] - 0.02 * reach];
      Object.assign(view, { azimuth: heading + Math.PI, elevation: 0.42, distance: 0.5 * reach, target });
    }
    redraw();
  }
  function move(dx, dy) {
    const scale = view.distance / sceneBox.clientHeight, c = Math.cos(view.azimuth), s = Math.sin(view.azimuth);
    view.target[0] += (s * dx - c * dy) * scale;
    view.target[1] += (-c * dx - s * dy) * scale;
  }
  const fingers = new Map();
  let spread = 0;
  sceneBox.addEventListener("pointerdown", (e) => { sceneBox.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); spread = 0; });
  for (const name of ["pointerup", "pointercancel"]) sceneBox.addEventListener(name, (e) => { fingers.delete(e.pointerId); spread = 0; });
  sceneBox.addEventListener("pointermove", (e) => {
    const last = fingers.get(e.pointerId);
    if (!last) return;
    const dx = e.clientX - last.clientX, dy = e.clientY - last.clientY;
    fingers.set(e.pointerId, e);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (spread) view.distance *= spread / now;
      spread = now;
      move(dx / 2, dy / 2);
    } else if (e.buttons === 2 || e.shiftKey) move(dx, dy);
    else {
      view.azimuth -= dx * 0.006;
      view.elevation = Math.min(1.56, Math.max(-0.3, view.elevation + dy * 0.006));
    }
    redraw();
  });
  sceneBox.addEventListener("wheel", (e) => {
    e.preventDefault();
    view.distance = Math.min(500, Math.max(0.5, view.distance * Math.exp(e.deltaY * 0.001)));
    redraw();
  }, { passive: false });
  sceneBox.addEventListener("contextmenu", (e) => e.preventDefault());
  sceneBox.addEventListener("dblclick", () => viewpoint("behind"));
  for (const button of document.querySelectorAll("[data-viewpoint]"))
    button.addEventListener("click", () => viewpoint(button.dataset.viewpoint));
  for (const id of ["colours", "probability", "show-surface", "show-completed"]) byId(id).addEventListener("input", reload);
  byId("show-lidar").addEventListener("input", redraw);
  new ResizeObserver(redraw).observe(sceneBox);

  // ---- frames -----------------------------------------------------------------------------------------------------------
  function picture(id, data, kind) {
    byId(id).src = `data:image/${kind};base64,${data}`;
  }
  let newest = -1;
  async function show(number) {
    newest = number;
    const data = JSON.parse(byId(`frame-${number}`).textContent);
    picture("camera", data.camera_jpg, "jpeg");
    picture("depth", data.depth_jpg, "jpeg");
    picture("seen", data.seen_png, "png");
    byId("caption").textContent = data.caption;
    byId("evidence").textContent = data.evidence;
    const voxels = unpackVoxels(await inflate(data.voxels), data.count, data.grid.shape);
    const lidar = data.lidar ? unpackLidar(await inflate(data.lidar), data.grid.origin) : new Float32Array(0);
    const answers = data.matches ? await inflate(data.matches) : null;
    if (newest !== number) return;       // the slider moved on meanwhile
    const first = frame === null;
    frame = { grid: data.grid, camera: data.viewpoint, voxels, lidar, matches: answers };
    answer();
    byId("lidar-switch").hidden = lidar.length === 0;
    if (!ready) return;
    uploadVoxels(); uploadLines(); uploadLidar();
    if (first) viewpoint("behind");
    draw();
  }
  const slider = byId("frame"), play = byId("play");
  const go = (number) => { slider.value = number; show(number).catch(report_error); };
  let timer = 0;
  slider.addEventListener("input", () => go(Number(slider.value)));
  play.addEventListener("click", () => {
    if (timer) { clearInterval(timer); timer = 0; play.textContent = "▶ play"; return; }
    play.textContent = "❚❚ pause";
    timer = setInterval(() => go((Number(slider.value) + 1) % frameCount), 250);
  });
  document.addEventListener("keydown", (e) => {
    if (e.target.tagName === "INPUT" || e.target.tagName === "SELECT") return;
    if (e.key === "ArrowLeft") go(Math.max(0, Number(slider.value) - 1));
    if (e.key === "ArrowRight") go(Math.min(frameCount - 1, Number(slider.value) + 1));
  });
  function report_error(error) {
    console.error(error);
    byId("trouble").hidden = false;
    byId("trouble").textContent = `The 3D view cannot be drawn: ${error.message}`;
  }
  try {
    if (!gl) throw new Error("this browser has no WebGL 2");
    prepare();
  } catch (error) { report_error(error); }
  byId("camera").addEventListener("load", ({ target: { naturalWidth, naturalHeight } }) =>
    document.body.classList.toggle("wide", naturalWidth > 2 * naturalHeight));
  go(Math.floor(frameCount / 2));
})();
