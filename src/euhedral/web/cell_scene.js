"use strict";
// How a crystal of the page's data is drawn by 3Dmol, with the same balls, bonds and box as its SVG picture.
const cellScene = (() => {
  const WIDTH = 300, HEIGHT = 240; // viewBox of the pictures

  const point = (x, y, z) => ({ x, y, z });
  const vectors = (crystal) => [0, 3, 6].map((k) => crystal.cell.slice(k, k + 3).map((v) => v / 100));

  function draw(viewer, crystal, elements, filling) {
    // An opaque ground: on a clear one the browser blends the edges of balls and letters with black.
    viewer.setBackgroundColor(getComputedStyle(document.documentElement).getPropertyValue("--card").trim(), 1);
    // The only lamp stands beside the eye; on a light ground, fog from before the crystal on lifts its black edges.
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    viewer.enableFog(dark ? { fogStart: 0.2, fogEnd: 2.6 } : { fogStart: -0.55, fogEnd: 3 });
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    const model = viewer.addModel();
    const atoms = crystal.numbers.map((number, i) => {
      const [x, y, z] = crystal.positions.slice(3 * i, 3 * i + 3).map((v) => v / 100);
      return { elem: elements[number][0], serial: i, x, y, z };
    });
    model.addAtoms(atoms);
    for (const number of new Set(crystal.numbers)) {
      const [symbol, color, radius, covalent] = elements[number];
      viewer.setStyle({ elem: symbol }, { sphere: { radius: filling ? covalent : radius, color } });
      if (!filling) halfBonds(viewer, crystal, atoms, symbol, color);
    }
    box(viewer, crystal);
  }

  // One shape for each element: a shape for each bond would be drawn one by one.
  function halfBonds(viewer, crystal, atoms, symbol, color) {
    const shape = viewer.addShape({ color });
    for (let k = 0; k < crystal.bonds.length; k += 2)
      for (const [i, j] of [[0, 1], [1, 0]].map((pair) => pair.map((m) => atoms[crystal.bonds[k + m]]))) {
        const end = point((i.x + j.x) / 2, (i.y + j.y) / 2, (i.z + j.z) / 2);
        if (i.elem === symbol) shape.addCylinder({ start: point(i.x, i.y, i.z), end, radius: 0.085, color });
      }
  }

  function box(viewer, crystal) {
    const style = getComputedStyle(document.documentElement);
    const color = style.getPropertyValue("--cell-front").trim();
    const text = style.getPropertyValue("--text").trim();
    const cell = vectors(crystal);
    const corner = (f) => [0, 1, 2].map((k) => cell.reduce((sum, v, i) => sum + (f[i] - 0.5) * v[k], 0));
    const shape = viewer.addShape({ color });
    for (let axis = 0; axis < 3; axis++)
      for (const [u, v] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
        const from = [u, v]; from.splice(axis, 0, 0);
        const to = [u, v]; to.splice(axis, 0, 1);
        shape.addCylinder({ start: point(...corner(from)), end: point(...corner(to)), radius: 0.022, color, fromCap: 1, toCap: 1 });
      }
    cell.forEach((_, axis) => {
      const end = corner([0, 1, 2].map((k) => Number(k === axis)));
      const at = end.map((v) => v * (1 + 1.1 / Math.hypot(...end)));
      viewer.addLabel("abc"[axis], {
        position: point(...at), fontColor: text, fontSize: 13, backgroundOpacity: 0, alignment: "center", inFront: true,
      });
    });
  }

  // The scale is measured on the screen, so that the turning cell takes exactly the place of its drawing.
  function place(viewer, host, crystal, rotation) {
    viewer.zoomTo();
    const [a, b, c] = vectors(crystal);
    const half = [[1, 1], [1, -1], [-1, 1], [-1, -1]].map(([m, n]) => Math.hypot(...a.map((v, k) => v + m * b[k] + n * c[k])) / 2);
    const reach = Math.max(...half) + 3;
    const wanted = crystal.scale * Math.min(host.clientWidth / WIDTH, host.clientHeight / HEIGHT);
    viewer.setView([0, 0, 0, viewer.getView()[3], ...rotation]);
    for (let pass = 0; pass < 3; pass++) {
      viewer.render();
      const [o, ...ends] = viewer.modelToScreen([point(0, 0, 0), point(1, 0, 0), point(0, 1, 0), point(0, 0, 1)]);
      const found = Math.sqrt(ends.reduce((sum, p) => sum + (p.x - o.x) ** 2 + (p.y - o.y) ** 2, 0) / 2);
      if (!(found > 0)) break;
      viewer.zoom(wanted / found);
    }
    viewer.setSlab(-reach, reach);
    viewer.render();
  }

  // Rotation that brings one lattice vector towards the eye and another one up, as a quaternion.
  function along(crystal, axis) {
    const unit = (v) => { const n = Math.hypot(...v); return v.map((x) => x / n); };
    const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    const cell = vectors(crystal);
    const z = unit(cell[axis]), x = unit(cross(cell[axis === 2 ? 1 : 2], z)), y = cross(z, x);
    const best = [x[0] + y[1] + z[2], x[0] - y[1] - z[2], y[1] - x[0] - z[2], z[2] - x[0] - y[1]];
    const k = best.indexOf(Math.max(...best)), s = 2 * Math.sqrt(best[k] + 1);
    const [a, b, c] = [(z[1] - y[2]) / s, (x[2] - z[0]) / s, (y[0] - x[1]) / s];
    const [d, e, f] = [(x[1] + y[0]) / s, (x[2] + z[0]) / s, (y[2] + z[1]) / s];
    return [[a, b, c, s / 4], [s / 4, d, e, a], [d, s / 4, f, b], [e, f, s / 4, c]][k];
  }

  return { draw, place, along };
})();
