"use strict";
// Draws the charts of the page in its colours, and again where light becomes dark or the page is printed.
(() => {
  const charts = JSON.parse(document.getElementById("data").textContent);
  const plots = [...document.querySelectorAll(".drawing")];
  const print = matchMedia("print");
  const touch = matchMedia("(pointer: coarse)").matches;
  const hovers = !touch && matchMedia("(hover: hover)").matches;
  const PRINTED_WIDTH = 640, PRINTED_HEIGHT = 0.72;  // of a page of A4 or letter, and of the height on a screen

  // "@name" stands for the page's colour of that name, at any depth of a trace or layout.
  const dressed = (value, style) => {
    if (typeof value === "string" && value[0] === "@") return style.getPropertyValue("--" + value.slice(1)).trim() || value;
    if (Array.isArray(value)) return value.map((item) => dressed(item, style));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, dressed(item, style)]));
    return value;
  };

  const axis = { gridcolor: "@grid", linecolor: "@line", zerolinecolor: "@line", automargin: true, ticks: "", title: { standoff: 8 } };
  const common = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 8, t: 8, b: 40 },
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 12, color: "@text" },
    hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@text" } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "@muted", activecolor: "@accent" },
    hovermode: "x unified", dragmode: touch ? false : "zoom",
  };
  const merged = (one, other) => {
    const result = { ...one };
    for (const [key, value] of Object.entries(other)) {
      const nested = value && typeof value === "object" && !Array.isArray(value) && result[key];
      result[key] = nested ? merged(result[key], value) : value;
    }
    return result;
  };

  const draw = (plot, printed) => {
    const chart = charts[Number(plot.dataset.index)];
    const style = getComputedStyle(document.documentElement);
    const layout = merged(merged(common, { xaxis: axis, yaxis: axis }), chart.layout);
    const size = printed
      ? { width: PRINTED_WIDTH, height: PRINTED_HEIGHT * parseFloat(plot.style.height), autosize: false }
      : { autosize: true };
    const buttons = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"];
    const config = {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: buttons, displayModeBar: hovers ? "hover" : false,
      toImageButtonOptions: { format: "svg" },
    };
    return Plotly.react(plot, dressed(chart.data, style), { ...dressed(layout, style), ...size }, config);
  };
  const drawAll = () => plots.forEach((plot) => draw(plot, print.matches));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  // The print's width is not that of the window, and plotly draws for a width in pixels. A query of the media changes
  // once the printed colours hold.
  print.addEventListener("change", drawAll);
  drawAll();
})();
