"use strict";
// Draws the figures of a report from the data in the page, as SVG, anew when the width changes. Hovering a curve names
// its trial and lights it up in every figure; the legend hides and shows groups. No library and no network.

const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const panels = data.plots.map((plot) => ({ plot, box: document.getElementById(`plot-${plot.name}`) }));
const tip = document.getElementById("tip");

const colour = (group) => (group < 0 ? "var(--text)" : `var(--c${group % data.colours})`);
const show = (value) => String(Number(value.toPrecision(4)));

function add(parent, name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// Round values that divide [low, high] into about `count` parts.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const result = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) result.push(i * step);
  return result;
}

function extent(values, [low, high] = [Infinity, -Infinity]) {
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? (low < high ? [low, high] : [low - 0.5, high + 0.5]) : [0, 1];
}

function draw(panel, room = panel.box.clientWidth) {
  const { plot, box } = panel;
  const parallel = plot.axes.length > 0;
  const width = Math.max(room, parallel ? 96 * plot.axes.length : 0);
  const height = parallel ? 340 : Math.round(Math.min(330, Math.max(230, width * 0.62)));
  const margin = parallel ? { top: 46, right: 84, bottom: 14, left: 16 } : { top: 8, right: 12, bottom: 40, left: 52 };
  const [x0, x1] = parallel ? [0, Math.max(1, plot.axes.length - 1)] : extent(plot.curves.flatMap((c) => data.xs[c[1]]));
  const [y0, y1] = parallel ? [0, 1] : (plot.range ?? extent(plot.curves.flatMap((c) => c[2])));
  const across = (x) => margin.left + ((x - x0) / (x1 - x0)) * (width - margin.left - margin.right);
  const down = (y) => height - margin.bottom - ((y - y0) / (y1 - y0)) * (height - margin.top - margin.bottom);

  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }))
    svg.setAttribute(key, value);
  svg.setAttribute("aria-label", box.dataset.title);
  if (parallel) {
    plot.axes.forEach(([label], i) => {
      add(svg, "line", { x1: across(i), x2: across(i), y1: down(0), y2: down(1), class: "axis" });
      const [section, ...rest] = label.split(".");
      add(svg, "text", { x: across(i), y: 14, class: "label" }, rest.length ? `${section}.` : "");
      add(svg, "text", { x: across(i), y: 28, class: "label" }, rest.length ? rest.join(".") : section);
    });
  } else {
    for (const x of ticks(x0, x1, width / 80)) {
      add(svg, "line", { x1: across(x), x2: across(x), y1: down(y0), y2: down(y1), class: "grid" });
      add(svg, "text", { x: across(x), y: height - 24, class: "tick middle" }, show(x));
    }
    for (const y of ticks(y0, y1, 5)) {
      add(svg, "line", { x1: across(x0), x2: across(x1), y1: down(y), y2: down(y), class: "grid" });
      add(svg, "text", { x: margin.left - 6, y: down(y) + 4, class: "tick end" }, show(y));
    }
    add(svg, "text", { x: (across(x0) + across(x1)) / 2, y: height - 5, class: "label middle" }, plot.x);
    const turn = `translate(12 ${(down(y0) + down(y1)) / 2}) rotate(-90)`;
    add(svg, "text", { transform: turn, class: "label middle" }, plot.y);
  }

  panel.curves = plot.curves.map(([named, xs, ys, bold]) => {
    const points = [];
    data.xs[xs].forEach((x, i) => {
      if (plot.steps && i) points.push([across(x), down(ys[i - 1]), i - 1]);
      points.push([across(x), down(ys[i]), i]);
    });
    return { named, xs, ys, bold, points };
  });
  const faint = Math.max(0.1, Math.min(0.6, 25 / plot.curves.length));
  for (const curve of [...panel.curves].sort((a, b) => a.bold - b.bold)) {
    const dot = curve.points.length === 1;
    const kind = `curve${curve.bold ? " bold" : ""}${dot ? " dot" : ""}`;
    const style = `stroke: ${colour(data.names[curve.named][1])}; stroke-opacity: ${curve.bold ? 1 : dot ? 0.75 : faint}`;
    curve.node = add(svg, "path", { d: outline(curve), class: kind, style });
  }
  plot.axes.forEach(([, marks], i) => {
    for (const [text, at] of marks) add(svg, "text", { x: across(i) + 5, y: down(at) + 4, class: "tick" }, text);
  });
  panel.hot = add(svg, "path", { class: "hot", d: "" });
  svg.addEventListener("pointermove", (event) => point(panel, svg, event));
  svg.addEventListener("pointerdown", (event) => point(panel, svg, event));
  svg.addEventListener("pointerleave", () => light(null));
  box.replaceChildren(svg);
  hide(panel);
}

// One point is drawn as a line of no length, which round ends make a dot.
function outline({ points }) {
  const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`);
  return `M${path[0]}L${path.length > 1 ? path.slice(1).join(" ") : path[0]}`;
}

function hide(panel) {
  for (const curve of panel.curves)
    curve.node.style.display = hidden.has(data.names[curve.named][1]) ? "none" : "";
}

// The curve nearest to (x, y), within 24 pixels, and which of its points is next to there.
function nearest(panel, x, y) {
  let found = null;
  let best = 24 * 24;
  for (const curve of panel.curves) {
    if (hidden.has(data.names[curve.named][1])) continue;
    const { points } = curve;
    for (let i = 0; i < points.length; i++) {
      const [ax, ay] = points[i];
      const [bx, by] = points[Math.min(i + 1, points.length - 1)];
      if (ax > x + 24 || bx < x - 24) continue;
      const square = (bx - ax) ** 2 + (by - ay) ** 2;
      const along = square ? Math.max(0, Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / square)) : 0;
      const distance = (x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2;
      if (distance < best) {
        best = distance;
        found = { curve, at: points[along < 0.5 ? i : Math.min(i + 1, points.length - 1)][2] };
      }
    }
  }
  return found;
}

function point(panel, svg, event) {
  const frame = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / frame.width;
  const found = nearest(panel, (event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale);
  light(found && found.curve.named);
  if (!found) return;
  const { plot } = panel;
  const { xs, ys, named } = found.curve;
  const x = data.xs[xs][found.at];
  const where = plot.axes.length ? plot.axes[x][0] : `${plot.x} ${show(x)}, ${plot.y} ${show(ys[found.at])}`;
  tip.replaceChildren(data.names[named][0], document.createElement("br"), where);
  tip.hidden = false;
  const right = window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(event.pageX + 14, right))}px`;
  tip.style.top = `${event.pageY - tip.offsetHeight - 12}px`;
}

// Lights up the curves of a name in every figure; null lights none.
function light(named) {
  if (named === null) tip.hidden = true;
  const name = named === null ? null : data.names[named][0];
  for (const panel of panels) {
    const same = name === null ? [] : panel.curves.filter((curve) => data.names[curve.named][0] === name);
    panel.hot.setAttribute("d", same.map(outline).join(""));
    if (same.length) panel.hot.style.stroke = colour(data.names[same[0].named][1]);
  }
}

for (const button of document.querySelectorAll("#legend button"))
  button.addEventListener("click", () => {
    const group = Number(button.dataset.group);
    if (!hidden.delete(group)) hidden.add(group);
    button.setAttribute("aria-pressed", String(!hidden.has(group)));
    panels.forEach(hide);
  });

let width = 0;
let waiting = 0;
function redraw() {
  if (width === document.documentElement.clientWidth) return;
  width = document.documentElement.clientWidth;
  panels.forEach((panel) => draw(panel));
}
// On paper: two figures side by side on A4, and everything unfolded.
const folded = [...document.querySelectorAll("details:not([open])")];
window.addEventListener("beforeprint", () => {
  light(null);
  for (const panel of panels) draw(panel, panel.plot.axes.length ? 680 : 330);
  for (const details of folded) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
  width = 0;
  redraw();
});
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 150);
});
redraw();
