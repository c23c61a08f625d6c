"use strict";
// How a crystal of the page's data is drawn by 3Dmol, with the same balls, bonds and box as its SVG picture.
const cellScene = (() => {
  const WIDTH = 300, HEIGHT = 240; // viewBox of the pictures

  const point = (x, y, z) => ({ x, y, z });
  const vectors = (crystal) => [0, 3, 6].map((k) => crystal.cell.slice(k, k + 3).map((v) => v / 100));

  function draw(viewer, crystal, elements, filling) {
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    const model = viewer.addModel();
    const atoms = crystal.numbers.map((number, i) => {
      const [x, y, z] = crystal.positions.slice(3 * i, 3 * i + 3).map((v) => v / 100);
      return { elem: elements[number][0], serial: i, x, y, z, bonds: [], bondOrder: [] };
    });
    for (let k = 0; k < crystal.bonds.length; k += 2) {
      const [i, j] = [crystal.bonds[k], crystal.bonds[k + 1]];
      atoms[i].bonds.push(j); atoms[i].bondOrder.push(1);
      atoms[j].bonds.push(i); atoms[j].bondOrder.push(1);
    }
    model.addAtoms(atoms);
    for (const number of new Set(crystal.numbers)) {
      const [symbol, color, radius, covalent] = elements[number];
      const sphere = { radius: filling ? covalent : radius, color };
      viewer.setStyle({ elem: symbol }, filling ? { sphere } : { sphere, stick: { radius: 0.085, color } });
    }
    box(viewer, crystal);
  }

  function box(viewer, crystal) {
    const style = getComputedStyle(document.documentElement);
    const color = style.getPropertyValue("--cell-front").trim();
    const text = style.getPropertyValue("--text").trim();
    const cell = vectors(crystal);
    const corner = (f) => [0, 1, 2].map((k) => cell.reduce((sum, v, i) => sum + (f[i] - 0.5) * v[k], 0));
    for (let axis = 0; axis < 3; axis++)
      for (const [u, v] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
        const from = [u, v]; from.splice(axis, 0, 0);
        const to = [u, v]; to.splice(axis, 0, 1);
        viewer.addCylinder({ start: point(...corner(from)), end: point(...corner(to)), radius: 0.022, color, fromCap: 1, toCap: 1 });
      }
    cell.forEach((vector, axis) => {
      const length = Math.hypot(...vector), end = corner([0, 1, 2].map((k) => Number(k === axis)));
      const at = end.map((v, k) => v + (0.95 * vector[k]) / length);
      viewer.addLabel("abc"[axis], {
        position: point(...at), fontColor: text, fontSize: 13, backgroundOpacity: 0, alignment: "center", inFront: true,
      });
    });
  }

  // The scale is measured on the screen, so that the turning cell takes exactly the place of its drawing.
  function place(viewer, host, crystal, rotation) {
    viewer.zoomTo();
    const reach = Math.hypot(...vectors(crystal).flat()) + 6;
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
