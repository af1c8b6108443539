"use strict";
(() => {
  const found = JSON.parse(document.getElementById("data").textContent);
  const rows = found.rows;
  const metric = found.metric.replace("_", " ");
  const isShare = ["accuracy", "macro_f1", "token_accuracy"].includes(found.metric);
  const sign = found.higher_is_better ? 1 : -1;
  const none = "–";

  // Text.

  const number = (value, digits = 3) => value.toLocaleString("en", { maximumSignificantDigits: digits });
  const bytes = (count, digits = 3) => {
    for (const unit of ["B", "kB", "MB"]) {
      if (count < 999.5) return `${number(count, digits)} ${unit}`;
      count /= 1000;
    }
    return `${number(count, digits)} GB`;
  };
  const seconds = (value, digits = 3) => (value < 120 ? `${number(value, digits)} s` : `${number(value / 60, digits)} min`);
  const percent = (share) => `${number(100 * share)} %`;
  const scaled = (value) => (isShare ? 100 * value : value);
  const quality = (row) => row.scores[found.metric];
  const scoreText = (score) => {
    const digits = isShare ? 1 : 3;
    const half = score.half === null ? "" : ` ± ${scaled(score.half).toFixed(digits)}`;
    return scaled(score.mean).toFixed(digits) + half + (isShare ? " %" : "");
  };

  // Elements. Text goes in as text, so nothing in a label is taken for markup.

  const add = (parent, tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== null && text !== undefined) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    parent.append(node);
    return node;
  };
  const draw = (parent, tag, attributes = {}, text = null) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== null) node.textContent = text;
    parent.append(node);
    return node;
  };
  const hue = (index) => Math.round((index * 137.508 + 165) % 360);
  const color = (node, index) => {
    node.classList.add("hue");
    node.style.setProperty("--h", hue(index));
    node.style.setProperty("--d", `${(index % 3) * 9 - 9}%`); // near hues come 8 and 13 apart: tell them by lightness
    return node;
  };
  const tip = document.getElementById("tip");
  const tells = (node, text) => {
    const show = (x, y) => {
      tip.textContent = text;
      tip.hidden = false;
      tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
    };
    const hide = () => { tip.hidden = true; };
    node.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
    node.addEventListener("pointerleave", hide);
    node.addEventListener("focus", () => { const box = node.getBoundingClientRect(); show(box.right, box.bottom); });
    node.addEventListener("blur", hide);
  };

  // The setting, and what there is to say in short.

  const about = document.getElementById("about");
  const facts = { ...found.about, seeds: found.seeds.join(", ") };
  for (const [name, value] of Object.entries(facts)) {
    if (!value || name === "idle_bytes") continue;
    const pair = add(about, "div");
    add(pair, "dt", name);
    add(pair, "dd", String(value));
  }

  const columns = [
    { key: "label", head: "method", value: (row) => row.label, text: (row) => row.label, up: true },
    { key: "quality", head: metric, value: (row) => quality(row)?.mean, up: sign < 0,
      text: (row) => scoreText(quality(row)) },
    { key: "learning_rate", head: "learning rate", value: (row) => row.learning_rate, up: true,
      text: (row) => number(row.learning_rate) },
    { key: "trainable_parameters", head: "trainable", value: (row) => row.trainable_parameters, up: true,
      text: (row) => row.trainable_parameters.toLocaleString("en"), cost: "trainable parameters", log: true },
    { key: "share", head: "of base", value: (row) => row.share, up: true, text: (row) => percent(row.share) },
    { key: "memory_bytes", head: "peak memory", value: (row) => row.memory_bytes, up: true,
      text: (row) => bytes(row.memory_bytes), cost: "peak memory", unit: bytes },
    { key: "seconds", head: "time", value: (row) => row.seconds, up: true, text: (row) => seconds(row.seconds),
      cost: "training time", unit: seconds },
    { key: "file_bytes", head: "file", value: (row) => row.file_bytes, up: true, text: (row) => bytes(row.file_bytes),
      cost: "file size", unit: bytes, log: true },
    { key: "overhead", head: "forward pass", value: (row) => row.overhead, up: true,
      text: (row) => `× ${row.overhead.toFixed(2)}`, cost: "time of a forward pass", unit: (value, digits) => `× ${number(value, digits)}` },
    { key: "merge", head: "merges", value: (row) => (row.overhead === null ? null : row.merge ? 1 : 0), up: true,
      text: (row) => (row.merge ? "no" : "yes") },
  ];
  const has = (value) => value !== null && value !== undefined;
  const compare = (column, up) => (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (!has(x) || !has(y)) return has(y) - has(x);
    return (typeof x === "string" ? x.localeCompare(y) : x - y) * (up ? 1 : -1);
  };
  const front = (points) => {
    const order = [...points].sort((a, b) => a.x - b.x || sign * (b.y - a.y));
    const kept = [];
    for (const point of order) if (!kept.length || sign * point.y > sign * kept.at(-1).y) kept.push(point);
    return kept;
  };

  const ranked = rows.filter((row) => quality(row) && !row.failure).sort(compare(columns[1], sign < 0));
  const best = ranked[0];
  const findings = document.getElementById("findings");
  const finding = (what, row, detail) => {
    const box = add(findings, "div");
    add(box, "p", what, { class: "what" });
    color(add(box, "p", row.label, { class: "who" }), rows.indexOf(row));
    add(box, "p", detail, { class: "small" });
  };
  if (best) {
    finding(`best ${metric}`, best, scoreText(quality(best)));
    const close = ranked.filter((row) => row === best || row.close);
    const cheapest = (key) => close.filter((row) => has(row[key])).sort((a, b) => a[key] - b[key])[0];
    const among = close.length > 1 ? ` of the ${close.length} not told apart from it` : "";
    const small = cheapest("trainable_parameters");
    if (small) finding(`fewest parameters${among}`, small, `${small.trainable_parameters.toLocaleString("en")}, ${percent(small.share)} of the base`);
    const light = cheapest("memory_bytes");
    if (light) finding(`least memory${among}`, light, bytes(light.memory_bytes));
    const quick = cheapest("seconds");
    if (quick) finding(`fastest to train${among}`, quick, seconds(quick.seconds));
  } else {
    add(findings, "p", "No run has finished yet.", { class: "empty" });
  }

  // The table.

  const table = document.getElementById("table");
  const head = add(add(table, "thead"), "tr");
  const body = add(table, "tbody");
  let sorted = { column: columns[1], up: columns[1].up };
  const heads = columns.map((column) => {
    const cell = add(head, "th", null, { scope: "col" });
    add(cell, "button", column.head, { type: "button" }).addEventListener("click", () => {
      sorted = { column, up: sorted.column === column ? !sorted.up : column.up };
      fill();
    });
    return cell;
  });
  function fill() {
    heads.forEach((cell, i) => {
      const state = columns[i] !== sorted.column ? "none" : sorted.up ? "ascending" : "descending";
      cell.setAttribute("aria-sort", state);
    });
    body.replaceChildren();
    for (const row of [...rows].sort(compare(sorted.column, sorted.up))) {
      const line = add(body, "tr", null, row === best ? { class: "best" } : {});
      const name = add(line, "th", null, { scope: "row" });
      color(add(name, "span", null, { class: "dot", "aria-hidden": "true" }), rows.indexOf(row));
      name.append(row.label);
      if (!quality(row)) {
        line.className = "failed";
        add(line, "td", `failed: ${row.failure}`, { colspan: columns.length - 1 });
        continue;
      }
      for (const column of columns.slice(1)) {
        const cell = add(line, "td", has(column.value(row)) ? column.text(row) : none);
        if (column.key === "quality" && row.close) add(cell, "span", " ≈", { class: "near", title: "not told apart from the best" });
        if (column.key === "merge" && row.merge) cell.title = row.merge;
      }
    }
  }
  fill();
  const list = document.getElementById("remarks");
  for (const text of found.remarks) add(list, "li", text);

  // Charts: a frame with axes, and what is drawn in it.

  const nice = (low, high, count) => {
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
    const ticks = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(+tick.toPrecision(12));
    return ticks;
  };
  const decades = (low, high) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const factor of high / low > 300 ? [1] : high / low > 10 ? [1, 3] : [1, 2, 3, 5, 7]) {
        const tick = factor * 10 ** power;
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    return ticks.length > 1 ? ticks : [low, high];
  };
  const scale = (values, from, to, log, pad = 0.06) => {
    const map = log ? Math.log : (value) => value;
    let [low, high] = [Math.min(...values), Math.max(...values)].map(map);
    const room = (high - low) * pad || Math.abs(high) * 0.02 || 1;
    [low, high] = [low - room, high + room];
    const at = (value) => from + ((map(value) - low) / (high - low)) * (to - from);
    at.ticks = (count) => (log ? decades(Math.exp(low), Math.exp(high)) : nice(low, high, count));
    return at;
  };
  const frame = (id, { xs, ys, xlog, ylog, xlabel, ylabel, xtext = number, ytext = number, describe, height = 380 }) => {
    const box = document.getElementById(id);
    box.replaceChildren();
    if (!xs.length) {
      add(box, "p", "Nothing to draw here.", { class: "empty" });
      return null;
    }
    const width = Math.max(300, box.clientWidth);
    const edge = { left: 54, right: 18, top: 26, bottom: 44 };
    const svg = draw(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe });
    const x = scale(xs, edge.left, width - edge.right, xlog);
    const y = scale(ys, height - edge.bottom, edge.top, ylog);
    for (const tick of y.ticks(6)) {
      draw(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(tick), y2: y(tick) });
      draw(svg, "text", { x: edge.left - 8, y: y(tick) + 4, "text-anchor": "end" }, ytext(tick));
    }
    let last = -Infinity;
    for (const tick of x.ticks(width / 110)) {
      draw(svg, "line", { class: "grid", x1: x(tick), x2: x(tick), y1: edge.top, y2: height - edge.bottom });
      if (x(tick) - last < 52) continue;
      draw(svg, "text", { x: x(tick), y: height - edge.bottom + 17, "text-anchor": "middle" }, xtext(tick));
      last = x(tick);
    }
    draw(svg, "text", { x: width - edge.right, y: height - 6, "text-anchor": "end" }, xlabel);
    draw(svg, "text", { x: 4, y: 12 }, ylabel);
    return { svg, x, y, width, height, edge };
  };
  const way = found.higher_is_better ? "higher is better" : "lower is better";
  const qualityLabel = `${metric}${isShare ? ", %" : ""} (${way})`;

  // Quality against cost.

  const chooser = document.getElementById("cost");
  const costs = columns.filter((column) => column.cost);
  for (const column of costs) add(chooser, "option", column.cost, { value: column.key });
  chooser.value = "memory_bytes";

  function trade() {
    const column = costs.find((each) => each.key === chooser.value);
    const points = rows
      .map((row, index) => ({ row, index, x: column.value(row), y: quality(row) && scaled(quality(row).mean) }))
      .filter((point) => has(point.x) && has(point.y) && !(column.log && point.x <= 0));
    const half = (row) => scaled(quality(row).half ?? 0);
    const within = (value) => (isShare ? Math.max(0, Math.min(100, value)) : value);
    const plot = frame("trade", {
      xs: points.map((point) => point.x),
      ys: points.flatMap(({ row, y }) => [within(y - half(row)), within(y + half(row))]),
      xlog: column.log, xlabel: column.cost, ylabel: qualityLabel, xtext: (value) => (column.unit ?? number)(value, 5),
      describe: `${metric} of each method against ${column.cost}; the figures are in the table above`, height: 430,
    });
    if (!plot) return;
    const { svg, x, y, width, edge } = plot;
    const kept = front(points);
    const steps = kept.map((point, i) => (i ? `H${x(point.x)}V${y(point.y)}` : `M${x(point.x)} ${y(point.y)}`));
    draw(svg, "path", { class: "front", d: `${steps.join("")}H${width - edge.right}` });
    const taken = points.map((point) => ({ left: x(point.x) - 6, right: x(point.x) + 6, top: y(point.y) - 6, bottom: y(point.y) + 6 }));
    for (const point of points) {
      const [cx, cy] = [x(point.x), y(point.y)];
      const group = color(draw(svg, "g", { class: "mark", tabindex: 0, "data-label": point.row.label }), point.index);
      const score = quality(point.row);
      if (score.half !== null) {
        const ends = [within(point.y - half(point.row)), within(point.y + half(point.row))].map(y);
        draw(group, "path", { d: `M${cx} ${ends[0]}V${ends[1]}`, opacity: 0.55 });
      }
      draw(group, "circle", { cx, cy, r: 5.5, class: kept.includes(point) ? "solid" : "hollow" });
      tells(group, `${point.row.label}\n${metric} ${scoreText(score)}\n${column.cost} ${column.text(point.row)}`);
    }
    for (const point of points) {
      const [cx, cy, wide] = [x(point.x), y(point.y), point.row.label.length * 6.4];
      const places = [[9, 4], [-9 - wide, 4], [-wide / 2, -11], [-wide / 2, 20], [8, -9], [8, 17], [-wide - 8, -9], [-wide - 8, 17]];
      const boxes = places.map(([dx, dy]) => ({ left: cx + dx, right: cx + dx + wide, top: cy + dy - 10, bottom: cy + dy + 3 }));
      const inside = (box) => box.left > edge.left && box.right < width;
      const free = (box) => taken.every((other) => box.right < other.left || other.right < box.left || box.bottom < other.top || other.bottom < box.top);
      const place = boxes.find((box) => inside(box) && free(box));
      if (!place) continue; // crowded: the tip tells
      taken.push(place);
      draw(svg, "text", { class: "label", x: place.left, y: place.bottom - 3 }, point.row.label);
    }
  }
  chooser.addEventListener("change", trade);

  // Losses.

  const shown = new Set(rows.map((row) => row.label));
  const chips = document.getElementById("chips");
  const chip = (text, press) => {
    const button = add(chips, "button", null, { type: "button" });
    button.addEventListener("click", () => { press(); lines(); });
    return button;
  };
  const buttons = rows.map((row, index) => {
    const button = chip(row.label, () => { if (!shown.delete(row.label)) shown.add(row.label); });
    color(add(button, "span", null, { class: "dot", "aria-hidden": "true" }), index);
    button.append(row.label);
    return button;
  });
  chip("all", () => rows.forEach((row) => shown.add(row.label))).textContent = "all";
  chip("none", () => shown.clear()).textContent = "none";

  const split = document.getElementById("split");
  const smooth = document.getElementById("smooth");
  const log = document.getElementById("log");
  const smoothed = (points) => {
    let mean = null;
    return points.map(([step, value]) => [step, (mean = mean === null ? value : 0.6 * mean + 0.4 * value)]);
  };

  function lines() {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", shown.has(rows[i].label)));
    const series = rows.flatMap((row, index) => row.curves
      .filter((curve) => shown.has(row.label) && !curve.searching && curve[split.value].length)
      .map((curve) => ({ row, index, curve, points: smooth.checked && split.value === "train" ? smoothed(curve[split.value]) : curve[split.value] })));
    const all = series.flatMap((each) => each.points).filter(([, value]) => !log.checked || value > 0);
    const plot = frame("loss", {
      xs: all.map(([step]) => step), ys: all.map(([, value]) => value), ylog: log.checked,
      xlabel: "step", ylabel: `${split.value === "train" ? "training" : "evaluation"} loss`,
      describe: "loss over the steps of each run",
    });
    if (plot) {
      for (const { row, index, curve, points } of series) {
        const group = color(draw(plot.svg, "g", { class: "series" }), index);
        curved(group, plot, points.filter(([, value]) => !log.checked || value > 0));
        tells(group, `${row.label}, seed ${curve.seed}\nlearning rate ${number(curve.learning_rate)}\nlast ${number(points.at(-1)[1], 4)}`);
      }
    }
    rates();
  }
  function curved(group, { x, y }, points) {
    if (points.length === 1) {
      draw(group, "circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 4, fill: "currentColor" });
      return;
    }
    const d = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    draw(group, "path", { d, fill: "none", stroke: "transparent", "stroke-width": 9 });
    draw(group, "path", { class: "curve", d });
  }

  // The search.

  function rates() {
    const searched = rows.map((row, index) => ({
      row, index, points: Object.entries(row.tried).filter(([, value]) => has(value))
        .map(([rate, value]) => [+rate, scaled(value)]).sort((a, b) => a[0] - b[0]),
    }));
    if (!searched.some(({ points }) => points.length)) return;
    document.getElementById("rates").hidden = false;
    const series = searched.filter(({ row, points }) => points.length && shown.has(row.label));
    const plot = frame("rate", {
      xs: series.flatMap(({ points }) => points.map(([rate]) => rate)),
      ys: series.flatMap(({ points }) => points.map(([, value]) => value)),
      xlog: true, xlabel: "learning rate", ylabel: qualityLabel, xtext: (rate) => (rate < 1e-3 ? rate.toExponential(0) : number(rate, 1)),
      describe: `${metric} of each method at each learning rate that was tried`,
    });
    if (!plot) return;
    for (const { row, index, points } of series) {
      const group = color(draw(plot.svg, "g", { class: "series" }), index);
      curved(group, plot, points);
      for (const [rate, value] of points) {
        const chosen = Math.abs(rate / row.learning_rate - 1) < 1e-6;
        draw(group, "circle", { cx: plot.x(rate), cy: plot.y(value), r: chosen ? 6 : 2.5, fill: chosen ? "none" : "currentColor", stroke: "currentColor", "stroke-width": 2 });
      }
      tells(group, [row.label, ...points.map(([rate, value]) => `${number(rate)}: ${number(value, 4)}`)].join("\n"));
    }
  }
  for (const control of [split, smooth, log]) control.addEventListener("change", lines);
  const all = () => { trade(); lines(); };
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) < 2) return;
    width = entry.contentRect.width;
    all();
  }).observe(document.querySelector("main"));
  all();
})();
