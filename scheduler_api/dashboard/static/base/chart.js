// Charts as SVG, each with a title, axes, text on hover, and an equivalent table for screen readers.

import { element, svg } from "./dom.js";
import { count } from "./time.js";

const MARGIN = { top: 8, right: 8, bottom: 20 };
const TICK_WIDTH = 6.4; // of a character of the axis, in px
const TICKS = [1, 2, 2.5, 5, 10];

/** Return the end of an axis that is at least `most`, and the step between its marks (about four of them). */
function scale(most) {
  if (!(most > 0)) return { end: 1, step: 1 };
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  // Steps of 2.5 would be shown rounded: 3, 5, 8, 10.
  const step = TICKS.filter((one) => one !== 2.5 || power > 1).map((one) => one * power).find((one) => one >= rough - 1e-9);
  return { end: Math.ceil(most / step - 1e-9) * step, step };
}

/**
 * Draw stacked bars.
 * @param {object} options
 * @param {string} options.title accessible name, also the caption of the table
 * @param {string[]} options.labels one text per bar (shown on hover and in the table)
 * @param {Array<{name: string, tone: string, values: number[]}>} options.series drawn from the bottom; tone: ok, bad, warn,
 *   idle, run
 * @param {Array<[number, string]>} [options.marks] texts below the axis: [index of the bar, text]
 * @param {(value: number) => string} [options.format] of values; default count
 * @param {number} [options.height] in px; default 160
 * @param {(index: number) => void} [options.onclick] a bar was clicked
 */
export function bars(options) {
  return chart(options, ({ plot, x, y, bottom, width }) => {
    const { labels, series } = options;
    const step = width / Math.max(1, labels.length);
    const gap = step > 6 ? 2 : step > 3 ? 1 : 0;
    labels.forEach((_, index) => {
      let sum = 0;
      for (const { tone, values } of series) {
        const value = values[index] ?? 0;
        if (!value) continue;
        const from = y(sum);
        sum += value;
        // A bar that is not empty is visible.
        const height = Math.max(1.5, from - y(sum));
        plot.append(svg("rect", { class: `fill ${tone}`, fill: tone === "idle" ? "url(#hatch)" : null, x: x(index) - step / 2 + gap / 2, y: Math.min(from, bottom) - height, width: Math.max(0.5, step - gap), height }));
      }
    });
  }, true);
}

/**
 * Draw lines; options as `bars`. null in `values` is a gap.
 */
export function lines(options) {
  return chart(options, ({ plot, x, y }) => {
    for (const { tone, values } of options.series) {
      let path = "";
      let open = false;
      values.forEach((value, index) => {
        if (value === null || value === undefined) {
          open = false;
          return;
        }
        path += `${open ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
        if (!open && (values[index + 1] ?? null) === null) path += "h.01"; // a single point is visible
        open = true;
      });
      plot.append(svg("path", { class: `line ${tone}`, d: path }));
    }
  }, false);
}

function chart(options, paint, stacked) {
  const { title, labels, series, marks = [], format = count, height = 160, onclick } = options;
  const hover = element("div", { class: "chart-hover", hidden: true });
  const drawing = svg("svg", { class: "chart-svg", height, role: "img", "aria-label": title });
  const node = element(
    "figure",
    { class: "chart" },
    series.length > 1 ? legend(series) : null,
    element("div", { class: "chart-box" }, drawing, hover),
    tableOf(title, labels, series, format),
  );
  const totals = labels.map((_, index) =>
    stacked ? series.reduce((sum, one) => sum + (one.values[index] ?? 0), 0) : Math.max(0, ...series.map((one) => one.values[index] ?? 0)));
  const axis = scale(Math.max(0, ...totals, options.least ?? 0));
  const ticks = [];
  for (let value = 0; value <= axis.end + axis.step / 1000; value += axis.step) ticks.push([value, format(value)]);
  const left = 12 + TICK_WIDTH * Math.max(...ticks.map(([, text]) => text.length));
  let drawn = 0;

  function draw() {
    const full = Math.round(drawing.parentElement.clientWidth);
    if (!full || full === drawn) return;
    drawn = full;
    const width = full - left - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const step = width / Math.max(1, labels.length);
    const x = (index) => left + (index + 0.5) * step;
    const y = (value) => bottom - (value / axis.end) * (bottom - MARGIN.top);
    drawing.setAttribute("viewBox", `0 0 ${full} ${height}`);
    drawing.setAttribute("width", full);
    const plot = svg("g", {}, hatching());
    for (const [value, text] of ticks) {
      plot.append(
        svg("line", { class: value ? "grid" : "axis", x1: left, x2: full - MARGIN.right, y1: y(value), y2: y(value) }),
        svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text),
      );
    }
    for (const [index, text] of marks) {
      const at = x(index);
      const anchor = at < left + 24 ? "start" : at > full - 32 ? "end" : "middle";
      plot.append(svg("text", { class: "tick", x: at, y: height - 4, "text-anchor": anchor }, text));
    }
    paint({ plot, x, y, bottom, width });
    const cursor = svg("rect", { class: "cursor", y: MARGIN.top, height: bottom - MARGIN.top, width: Math.max(1, step), visibility: "hidden" });
    plot.append(cursor);
    drawing.replaceChildren(plot);
    drawing.onpointermove = (event) => {
      const index = indexAt(event, step, full);
      if (index === null) return leave();
      cursor.setAttribute("x", x(index) - step / 2);
      cursor.setAttribute("visibility", "visible");
      hover.replaceChildren(element("strong", {}, labels[index]),
        ...series.map((one) => element("div", {}, series.length > 1 ? swatch(one.tone) : null, `${one.name} `, element("b", {}, one.values[index] === null || one.values[index] === undefined ? "–" : format(one.values[index])))));
      hover.hidden = false;
      hover.style.left = `${Math.min(Math.max(0, x(index) - hover.offsetWidth / 2), full - hover.offsetWidth)}px`;
    };
    const leave = () => {
      hover.hidden = true;
      cursor.setAttribute("visibility", "hidden");
    };
    drawing.onpointerleave = leave;
    if (onclick) {
      drawing.classList.add("clickable");
      drawing.onclick = (event) => {
        const index = indexAt(event, step, full);
        if (index !== null) onclick(index);
      };
    }
  }

  function indexAt(event, step, full) {
    const at = event.clientX - drawing.getBoundingClientRect().left - left;
    const index = Math.floor(at / step);
    return index >= 0 && index < labels.length && at <= full ? index : null;
  }

  new ResizeObserver(draw).observe(node);
  return node;
}

/** The pattern of what did not run. It is the same in every chart, so the first one on the page serves all. */
function hatching() {
  return svg("defs", {}, svg("pattern", { id: "hatch", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { class: "hatch-ground", width: 4, height: 4 }), svg("rect", { class: "hatch-line", width: 1.6, height: 4 })));
}

function swatch(tone) {
  return element("span", { class: `swatch ${tone}`, "aria-hidden": "true" });
}

function legend(series) {
  return element("div", { class: "legend", "aria-hidden": "true" }, series.map((one) => element("span", {}, swatch(one.tone), one.name)));
}

function tableOf(title, labels, series, format) {
  // In a box, because the height of a table cannot be less than that of its rows.
  return element("div", { class: "visually-hidden" }, element(
    "table",
    {},
    element("caption", {}, title),
    element("thead", {}, element("tr", {}, element("td", {}), series.map((one) => element("th", { scope: "col" }, one.name)))),
    element("tbody", {}, labels.map((label, index) =>
      element("tr", {}, element("th", { scope: "row" }, label), series.map((one) => element("td", {}, one.values[index] === null || one.values[index] === undefined ? "–" : format(one.values[index])))))),
  ));
}

/** Draw a small line without axes: sparkline([3, 5, null, 2], {title: "Latency", width: 96, height: 20, tone}). */
export function sparkline(values, { title, width = 96, height = 20, tone = "run" } = {}) {
  const most = Math.max(1e-9, ...values.map((one) => one ?? 0));
  const x = (index) => 1 + (index * (width - 2)) / Math.max(1, values.length - 1);
  const y = (value) => height - 2 - (value / most) * (height - 4);
  let path = "";
  let open = false;
  values.forEach((value, index) => {
    if (value === null || value === undefined) {
      open = false;
      return;
    }
    path += `${open ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    open = true;
  });
  return svg("svg", { class: "sparkline", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    svg("title", {}, title), svg("path", { class: `line ${tone}`, d: path }));
}
