"use strict";
// Names of voxels: a click gives the voxel the chosen class, all of them make a JSON file for `classes --names`.
globalThis.nameVoxels = ({ report, frame, shownOf, rayAt, redraw }) => {
  const byId = (id) => document.getElementById(id), sceneBox = byId("scene");
  const classes = new Map(Object.entries(report.naming.classes).map(([name, { colour }]) => [name, colour]));
  const named = new Map();               // one class a voxel, whatever is clicked first
  const keyOf = ({ recording, frame, index }) => JSON.stringify([recording, frame, index]);
  for (const voxel of report.naming.voxels) named.set(keyOf(voxel), voxel);
  let chosen = classes.keys().next().value, downAt = [0, 0];

  function spread(number) {              // as spread_colour of voxels/colours.py
    const hue = 6 * ((number * 0.61803398875) % 1);
    return [0, 4, 2].map((shift) => Math.round(60 + 180 * Math.min(1, Math.max(0, Math.abs((hue + shift) % 6 - 3) - 1))));
  }
  function offer() {
    const counts = new Map();
    for (const voxel of named.values()) counts.set(voxel.class, (counts.get(voxel.class) || 0) + 1);
    byId("classes").replaceChildren(...[...classes].map(([name, colour]) => {
      const button = document.createElement("button"), swatch = document.createElement("i");
      swatch.style.background = `rgb(${colour})`;
      button.className = "word";
      button.append(swatch, counts.has(name) ? `${name} ${counts.get(name)}` : name);
      button.setAttribute("aria-pressed", String(name === chosen));
      button.addEventListener("click", () => { chosen = name; offer(); });
      return button;
    }));
    redraw();
  }
  const say = (words) => { byId("naming").textContent = words; };
  function choose(name) {
    if (!name) return;
    if (!classes.has(name)) classes.set(name, spread(classes.size));
    chosen = name;
    byId("new-class").value = "";
    offer();
  }

  function hit([eye, direction]) {       // the first voxel shown on a ray: Amanatides and Woo, one step a voxel
    const { voxels, grid } = frame(), { origin, shape, size } = grid, shown = shownOf(frame()), at = new Map();
    const flat = ([x, y, z]) => (x * shape[1] + y) * shape[2] + z;
    for (let i = 0; i < voxels.count; i++) if (shown(i)) at.set(flat(voxels.cells.subarray(4 * i, 4 * i + 3)), i);
    const start = eye.map((e, k) => (e - origin[k]) / size), along = direction.map((d) => d || 1e-12);
    const ends = along.map((d, k) => [-start[k] / d, (shape[k] - start[k]) / d].sort((a, b) => a - b));
    let t = Math.max(0, ...ends.map(([low]) => low));
    const leaves = Math.min(...ends.map(([, high]) => high));
    const step = along.map(Math.sign);
    const cell = along.map((d, k) => Math.min(shape[k] - 1, Math.max(0, Math.floor(start[k] + (t + 1e-9) * d))));
    while (t < leaves) {
      if (at.has(flat(cell))) return cell;
      const next = along.map((d, k) => (cell[k] + (d > 0) - start[k]) / d), axis = next.indexOf(Math.min(...next));
      t = next[axis];
      cell[axis] += step[axis];
      if (cell[axis] < 0 || cell[axis] >= shape[axis]) return null;
    }
    return null;
  }
  function click(e) {
    if (e.detail > 1 || Math.hypot(e.clientX - downAt[0], e.clientY - downAt[1]) > 4 || !frame()) return;
    if (!chosen) { say("Type the name of a class first, and press add."); return; }
    const index = hit(rayAt(e.clientX, e.clientY));
    if (!index) { say("There is no voxel."); return; }
    const [recording, number] = frame().source, voxel = { recording, frame: number, index, class: chosen }, key = keyOf(voxel);
    const was = named.get(key);
    if (was && was.class === chosen) named.delete(key); else named.set(key, voxel);
    say(`${named.has(key) ? chosen : "no name"}: voxel ${index.join(", ")} of ${recording}, frame ${number}; ${named.size} voxels have a name`);
    offer();
  }

  function asText() {
    const used = new Set([...named.values()].map((voxel) => voxel.class));
    const lines = [...classes].filter(([name]) => used.has(name)).map(([name, colour]) => `${JSON.stringify(name)}: ${JSON.stringify({ colour })}`);
    const rows = [...named.values()].map((voxel) => JSON.stringify(voxel));
    return `{"schema": 1, "classes": {\n${lines.join(",\n")}\n}, "voxels": [\n${rows.join(",\n")}\n]}\n`;
  }
  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([asText()], { type: "application/json" }));
    link.download = "named_voxels.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }
  async function open(file) {
    try {
      const content = JSON.parse(await file.text()), known = new Set([...classes.keys(), ...Object.keys(content.classes)]);
      for (const voxel of content.voxels)
        if (voxel.index.length !== 3 || !voxel.index.every(Number.isInteger) || !known.has(voxel.class))
          throw new Error(`${JSON.stringify(voxel)} is no voxel of its classes`);
      for (const [name, { colour }] of Object.entries(content.classes))
        classes.set(name, colour || classes.get(name) || spread(classes.size));
      for (const voxel of content.voxels) named.set(keyOf(voxel), voxel);
      say(`${named.size} voxels have a name`);
      offer();
    } catch (error) { say(`${file.name} holds no named voxels: ${error.message}`); }
  }

  sceneBox.addEventListener("pointerdown", (e) => { downAt = [e.clientX, e.clientY]; });
  sceneBox.addEventListener("click", click);
  byId("add-class").addEventListener("click", () => choose(byId("new-class").value.trim()));
  byId("new-class").addEventListener("keydown", (e) => { if (e.key === "Enter") choose(e.target.value.trim()); });
  byId("save-names").addEventListener("click", save);
  byId("open-names").addEventListener("change", (e) => { for (const file of e.target.files) open(file); });
  offer();
  return () => {                         // centres [3] and colours of the named voxels of the frame that is shown
    const { source: [recording, number], grid } = frame();
    return [...named.values()].filter((voxel) => voxel.recording === recording && voxel.frame === number)
      .map(({ index, class: name }) => [index.map((i, k) => grid.origin[k] + (i + 0.5) * grid.size), classes.get(name)]);
  };
};
