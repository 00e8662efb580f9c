"use strict";
// Draws the report from the data in the page, and draws it anew for what the filters choose.
// Names come from a ledger and may be anything: they are only ever set as text, never as HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("tokencap-data").textContent);
  const at = Object.fromEntries(data.columns.map((name, place) => [name, place]));
  const COUNTS = ["calls", "estimated", "input", "output", "cached", "written", "reasoning", "seconds"];
  const STEP = data.step;
  const FIRST = data.rows[0][at.period];
  const END = data.rows[data.rows.length - 1][at.period] + STEP;
  const DIMENSIONS = data.facets.filter((facet) => facet.startsWith("dimension:"));
  const TAGS = data.facets.filter((facet) => facet.startsWith("tag:"));
  const FILTERS = ["provider", "model", ...DIMENSIONS, ...TAGS, "ending"];
  const FEW = 8;

  // What is chosen: positions in data.values by facet, and a range of time (seconds, UTC; null: open).
  const chosen = { facets: {}, from: null, to: null };
  // Of several, first the one with most names that go on a screen: a thousand sessions say less than ten tenants.
  const first = (facets) => {
    const names = (facet) => data.values[facet].length + (data.rest[facet] ?? 0);
    const use = (facet) => (names(facet) < 2 ? -1e9 : names(facet) <= 16 ? names(facet) : -names(facet));
    return [...facets].sort((a, b) => use(b) - use(a))[0];
  };
  const shown = { dimension: first(DIMENSIONS), tag: first(TAGS), split: "", series: [], all: new Set() };

  // -- words ---------------------------------------------------------------------------------------------

  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const count = (number) => Math.round(number).toLocaleString("en-US");
  const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;
  const share = (part, whole) => {
    const per = whole ? (part / whole) * 100 : 0;
    return per > 0 && per < 0.05 ? "< 0.1\u00a0%" : per >= 99.95 && part < whole ? "99.9\u00a0%" : `${per.toFixed(1)}\u00a0%`;
  };
  const short = (number, trimmed = true) => {
    for (const [size, letter] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (number < size * 0.9995) continue;
      const text = (number / size).toFixed(number / size < 10 ? 2 : 1);
      return `${trimmed ? Number(text) : text}${letter}`;
    }
    return String(Number(number.toFixed(1)));
  };
  const brief = (number) => (number < 1e5 ? count(number) : short(number, false));
  const two = (number) => String(number).padStart(2, "0");
  const dateOf = (seconds) => new Date(seconds * 1000);
  const day = (seconds, year = false) => {
    const date = dateOf(seconds);
    return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}${year ? ` ${date.getUTCFullYear()}` : ""}`;
  };
  const clock = (seconds) => `${two(dateOf(seconds).getUTCHours())}:${two(dateOf(seconds).getUTCMinutes())}`;
  const minute = (seconds) => `${day(seconds, true)}, ${clock(seconds)}`;
  const period = (start) => {
    if (STEP < 86400) {
      const end = start + STEP;
      return `${day(start)}, ${clock(start)}–${clock(end)}`;
    }
    return STEP === 86400 ? day(start, true) : `${day(start)} – ${day(start + STEP - 86400, true)}`;
  };
  const span = (seconds) => {
    for (const [size, name] of [[604800, "week"], [86400, "day"], [3600, "hour"], [60, "minute"]]) {
      if (seconds % size === 0) return seconds === size ? name : `${seconds / size} ${name}s`;
    }
    return `${seconds} seconds`;
  };
  const bare = (facet) => facet.replace(/^(dimension|tag):/, "");
  const nameOf = (facet, place) => {
    const value = data.values[facet][place];
    if (value === null) return `everything else (${count(data.rest[facet])})`;
    return value === "" ? "(none)" : value;
  };
  const plain = (facet, place) => Boolean(data.values[facet][place]);
  const rest = (facet, place) => Number(data.values[facet][place] === null);
  const titleOf = (facet) => ({ provider: "Provider", model: "Model", ending: "Ending" })[facet] ?? bare(facet);

  // -- elements ------------------------------------------------------------------------------------------

  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === undefined || value === null || (value === false && !name.startsWith("aria-"))) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : String(value));
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  };
  const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const bdi = (text) => el("bdi", {}, text);

  // -- counting ------------------------------------------------------------------------------------------

  const fresh = () => ({ ...Object.fromEntries(COUNTS.map((name) => [name, 0])), tokens: 0, degraded: 0, blocked: 0 });
  const BLOCKED = data.values.ending.indexOf("blocked");
  const add = (sum, row) => {
    for (const name of COUNTS) sum[name] += row[at[name]];
    sum.tokens += row[at.input] + row[at.output];
    if (row[at.degraded]) sum.degraded += row[at.calls];
    if (row[at.ending] === BLOCKED) sum.blocked += row[at.calls];
    return sum;
  };
  const matching = () => {
    const wanted = Object.entries(chosen.facets).map(([facet, place]) => [at[facet], place]);
    const [from, to] = range();
    return data.rows.filter((row) => {
      const start = row[at.period];
      return start >= from && start < to && wanted.every(([column, place]) => row[column] === place);
    });
  };
  // The range chosen, to whole periods.
  const range = () => [
    chosen.from === null ? FIRST : Math.max(FIRST, Math.floor(chosen.from / STEP) * STEP),
    chosen.to === null ? END : Math.min(END, Math.ceil(chosen.to / STEP) * STEP),
  ];
  const grouped = (rows, keyOf) => {
    const groups = new Map();
    for (const row of rows) {
      const key = keyOf(row);
      if (!groups.has(key)) groups.set(key, fresh());
      add(groups.get(key), row);
    }
    return groups;
  };

  // -- charts --------------------------------------------------------------------------------------------

  // What columns and bars are made of: a name, a colour, and what a row adds to it.
  const KINDS = [
    { name: "Input", key: "input", of: (row) => Math.max(0, row[at.input] - row[at.cached]) },
    { name: "Input from a cache", key: "cached", of: (row) => Math.min(row[at.cached], row[at.input]) },
    { name: "Output", key: "output", of: (row) => row[at.output] },
  ];
  const STOPS = [
    { name: "Blocked", key: "blocked", of: (row) => (row[at.ending] === BLOCKED ? row[at.calls] : 0) },
    { name: "Degraded", key: "degraded", of: (row) => (row[at.degraded] ? row[at.calls] : 0) },
  ];
  // The names of a facet with most tokens, and the others as one.
  const COLOURS = ["one", "two", "three", "four", "five"];
  const split = (facet, rows) => {
    const tokens = (row) => row[at.input] + row[at.output];
    const places = [...grouped(rows, (row) => row[at[facet]])]
      .sort(([a, x], [b, y]) => rest(facet, a) - rest(facet, b) || y.tokens - x.tokens || a - b)
      .map(([place]) => place);
    const top = places.filter((place) => !rest(facet, place)).slice(0, COLOURS.length);
    const series = top.map((place, n) => ({
      name: nameOf(facet, place), place, key: COLOURS[n], of: (row) => (row[at[facet]] === place ? tokens(row) : 0),
    }));
    if (places.length > top.length) {
      series.push({ name: "Everything else", key: "calls", of: (row) => (top.includes(row[at[facet]]) ? 0 : tokens(row)) });
    }
    return series.length ? series : KINDS;
  };

  const legend = (series) => series.map((one) =>
    el("li", {}, el("span", { class: `swatch c-${one.key}`, "aria-hidden": "true" }), bdi(one.name)));

  const niceTop = (most) => {
    const rough = Math.max(most, 4) / 4;
    const size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= rough && Number.isInteger(one));
    return step * Math.ceil(Math.max(most, 1) / step);
  };
  const ticksOf = (top) => {
    const rough = top / 4;
    const size = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= rough && Number.isInteger(one));
    return Array.from({ length: Math.floor(top / step) + 1 }, (_, n) => n * step);
  };
  const timeTicks = (starts, slot) => {
    const apart = [STEP, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2419200, 7257600, 14515200, 29030400]
      .find((size) => size >= STEP && size % STEP === 0 && (size / STEP) * slot >= 62) ?? STEP * starts.length;
    return starts
      .map((start, n) => [start, n])
      .filter(([start]) => start % apart === 0)
      .map(([start, n]) => [n, apart >= 86400 || start % 86400 === 0 ? day(start) : clock(start)]);
  };

  const charts = [];
  // Columns over time, a part of each for each of the series. Wide charts and phones get their own drawing.
  const columns = (target, { id, label, unit, height }) => {
    const key = el("ul", { class: "legend" });
    const readout = el("p", { class: "readout" });
    const plot = el("div", { class: "plot", id: `plot-${id}`, tabindex: "0", role: "slider", "aria-label": label, "aria-valuemin": "0" });
    const alt = el("div");
    target.append(key, readout, plot,
      el("details", { class: "alt" }, el("summary", {}, "Show as a table"), alt));
    let series = [], starts = [], values = [], totals = [], calls = [], place = null, hits = [], brush = null, geometry = null;

    const tell = (n) => {
      place = n;
      hits.forEach((hit, index) => hit.classList.toggle("on", index === n));
      if (n !== null) {
        const parts = series.map((one, k) => [bdi(one.name), ` ${count(values[n][k])} · `]);
        readout.replaceChildren(el("strong", {}, `${period(starts[n])}: ${many(totals[n], unit)}`), el("br"), ...parts.flat(), `${many(calls[n], "call")} in all`);
        plot.setAttribute("aria-valuenow", n);
        plot.setAttribute("aria-valuetext", readout.textContent);
        return;
      }
      const top = totals.reduce((best, whole, index) => (whole > best[0] ? [whole, index] : best), [0, -1]);
      readout.replaceChildren(...(top[1] < 0 ? [`No ${unit} in this time.`]
        : ["Most in ", el("strong", {}, period(starts[top[1]])), `: ${many(top[0], unit)}.`]));
      plot.setAttribute("aria-valuenow", 0);
      plot.setAttribute("aria-valuetext", readout.textContent);
    };

    const draw = () => {
      const width = Math.max(220, Math.floor(plot.clientWidth));
      const tall = width < 520 ? Math.min(height, 190) : height;
      const top = niceTop(Math.max(0, ...totals));
      const left = 44, bottom = 24, over = 8;
      const room = width - left, high = tall - bottom - over;
      const slot = room / starts.length;
      const wide = Math.max(1, Math.min(44, slot - (slot > 5 ? Math.min(4, slot * 0.22) : 0.5)));
      const y = (value) => over + high - (value / top) * high;
      const drawing = svg("svg", { viewBox: `0 0 ${width} ${tall}`, height: tall, "aria-hidden": "true", focusable: "false" });
      for (const tick of ticksOf(top)) {
        drawing.append(
          svg("line", { class: tick ? "grid" : "base", x1: left, x2: width, y1: y(tick), y2: y(tick) }),
          svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
      }
      values.forEach((parts, n) => {
        const x = left + slot * n + (slot - wide) / 2;
        let floor = 0;
        for (const [k, one] of series.entries()) {
          const value = parts[k];
          if (!value) continue;
          const low = y(floor), up = y(floor + value);
          drawing.append(svg("rect", {
            class: `part c-${one.key}`, x, y: up, width: wide, height: Math.max(low - up, 0.75),
            "data-period": starts[n], "data-series": one.key, "data-value": value,
          }));
          floor += value;
        }
      });
      const room62 = width - 24;
      for (const [n, text] of timeTicks(starts, slot)) {
        const x = left + slot * (n + 0.5);
        drawing.append(svg("text", { class: "tick", x, y: tall - 5, "text-anchor": x > room62 ? "end" : "middle" }, text));
      }
      hits = starts.map((_, n) => svg("rect", { class: "hit", x: left + slot * n, y: over, width: slot, height: high }));
      brush = svg("rect", { class: "brush", y: over, height: high, width: 0 });
      drawing.append(...hits, brush);
      geometry = { left, slot };
      plot.replaceChildren(drawing);
      plot.setAttribute("aria-valuemax", Math.max(0, starts.length - 1));
      tell(null);
    };

    const nth = (event) => {
      const x = event.clientX - plot.getBoundingClientRect().left - geometry.left;
      return Math.max(0, Math.min(starts.length - 1, Math.floor(x / geometry.slot)));
    };
    let began = null;
    const paint = (from, to) => {
      const [low, high] = from <= to ? [from, to] : [to, from];
      brush.setAttribute("x", geometry.left + geometry.slot * low);
      brush.setAttribute("width", geometry.slot * (high - low + 1));
    };
    plot.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      began = nth(event);
      if (event.pointerType === "mouse") plot.setPointerCapture(event.pointerId);
      tell(began);
    });
    plot.addEventListener("pointermove", (event) => {
      const n = nth(event);
      if (n !== place) tell(n);
      if (began !== null && event.pointerType === "mouse" && n !== began) paint(began, n);
    });
    plot.addEventListener("pointerup", (event) => {
      const n = nth(event);
      const from = began;
      began = null;
      if (from === null || event.pointerType !== "mouse" || n === from) return;
      choose({ from: starts[Math.min(from, n)], to: starts[Math.max(from, n)] + STEP });
    });
    plot.addEventListener("pointerleave", () => { if (began === null) tell(null); });
    plot.addEventListener("pointercancel", () => { began = null; tell(null); });
    plot.addEventListener("blur", () => tell(null));
    plot.addEventListener("keydown", (event) => {
      const last = starts.length - 1;
      const to = { ArrowLeft: (place ?? last + 1) - 1, ArrowDown: (place ?? last + 1) - 1, ArrowRight: (place ?? -1) + 1, ArrowUp: (place ?? -1) + 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      tell(Math.max(0, Math.min(last, to)));
    });

    const chart = {
      draw,
      show(rows, parts) {
        const [from, to] = range();
        series = parts;
        starts = [];
        for (let start = from; start < to; start += STEP) starts.push(start);
        values = starts.map(() => series.map(() => 0));
        calls = starts.map(() => 0);
        for (const row of rows) {
          const n = (row[at.period] - from) / STEP;
          series.forEach((one, k) => { values[n][k] += one.of(row); });
          calls[n] += row[at.calls];
        }
        totals = values.map((each) => each.reduce((total, value) => total + value, 0));
        key.replaceChildren(...legend(series));
        alt.replaceChildren(listing(label, ["Time (UTC)", ...series.map((one) => one.name), "Calls"],
          starts.map((start, n) => [period(start), ...values[n].map(count), count(calls[n])])));
        draw();
      },
    };
    charts.push(chart);
    return chart;
  };

  const bar = (parts, whole, thick = false) => {
    const drawing = svg("svg", { class: `bar${thick ? " thick" : ""}`, viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" });
    let x = 0;
    for (const [key, value] of parts) {
      const wide = whole > 0 ? (value / whole) * 1000 : 0;
      if (wide > 0) drawing.append(svg("rect", { class: `c-${key}`, x, y: 0, width: Math.max(wide, 3), height: 10, "data-value": value }));
      x += wide;
    }
    return drawing;
  };

  // -- tables --------------------------------------------------------------------------------------------

  const table = (caption, heads, rows) =>
    el("table", {}, el("caption", { class: "sr" }, caption),
      el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
      el("tbody", {}, rows));
  const listing = (caption, heads, rows) =>
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${caption}, as a table` },
      table(caption, heads.map((text) => [text]), rows.map(([first, ...rest]) =>
        el("tr", {}, el("th", { scope: "row" }, first), rest.map((text) => el("td", {}, text))))));
  const nothing = (text) => el("p", { class: "empty" }, text);

  const picker = (facet, place) => {
    const text = nameOf(facet, place);
    const pressed = chosen.facets[facet] === place;
    return el("button", {
      type: "button", class: `name${plain(facet, place) ? "" : " of"}`, "aria-pressed": pressed,
      title: pressed ? "Show all again" : "Show only this",
      onclick: () => choose({ facets: { [facet]: pressed ? undefined : place } }),
    }, bdi(text));
  };

  // Rows of a facet, those with most tokens first and everything else last; pressing a name shows only that.
  const ranking = (target, key, facet, rows, caption, first, measure = "tokens") => {
    const groups = [...grouped(rows, (row) => row[at[facet]])]
      .sort(([a, x], [b, y]) => rest(facet, a) - rest(facet, b) || y[measure] - x[measure] || y.calls - x.calls || a - b);
    const whole = groups.reduce((total, [, sum]) => total + sum[measure], 0);
    // Of everything else the bar may be full: it is no name among names.
    const top = Math.max(0, ...groups.filter(([place]) => !rest(facet, place)).map(([, sum]) => sum[measure]));
    if (!groups.length) return target.replaceChildren(nothing("No call matches the filters."));
    const open = shown.all.has(key);
    const lines = groups.slice(0, open ? groups.length : FEW).map(([place, sum]) =>
      el("tr", { "data-name": nameOf(facet, place), "data-value": sum[measure], "data-calls": sum.calls },
        el("th", { scope: "row" }, picker(facet, place),
          measure === "tokens" ? bar(partsOf(facet, place, sum), top) : bar([[toneOf(facet, place), sum.calls]], top)),
        el("td", { class: "strong" }, count(sum[measure])),
        el("td", { class: "soft" }, share(sum[measure], whole)),
        measure === "tokens" ? el("td", { class: "soft less" }, count(sum.calls)) : null));
    const heads = [[first], [measure === "tokens" ? "Tokens" : "Calls"], ["Share"], ...(measure === "tokens" ? [["Calls", "less"]] : [])];
    target.replaceChildren(table(caption, heads, lines), ...more(key, groups.length));
  };
  // A bar has the colours of the chart above it.
  const partsOf = (facet, place, sum) => {
    if (!shown.split) return [["input", sum.input - sum.cached], ["cached", sum.cached], ["output", sum.output]];
    const one = facet === shown.split ? shown.series.find((each) => each.place === place) : null;
    return [[one?.key ?? "calls", sum.tokens]];
  };
  const more = (key, length) => length <= FEW ? [] : [el("button", {
    type: "button", class: "link", "aria-expanded": shown.all.has(key),
    onclick: () => {
      shown.all.has(key) ? shown.all.delete(key) : shown.all.add(key);
      show(`[data-more="${key}"]`);
    },
    "data-more": key,
  }, shown.all.has(key) ? "Show fewer" : `Show all ${count(length)}`)];
  const toneOf = (facet, place) => ({ ok: "good", blocked: "blocked" })[data.values[facet][place]] ?? "degraded";

  // -- the parts of the page -----------------------------------------------------------------------------

  const tokensChart = columns(byId("chart-tokens"), { id: "tokens", label: `Tokens over time, by ${span(STEP)}`, unit: "token", height: 270 });
  const stoppedChart = columns(byId("chart-stopped"), { id: "stopped", label: `Blocked and degraded calls over time, by ${span(STEP)}`, unit: "call", height: 170 });

  const summary = (sum, rows) => {
    byId("total-tokens").textContent = count(sum.tokens);
    byId("total-tokens").classList.toggle("long", count(sum.tokens).length > 11);
    byId("total-unit").textContent = `${sum.tokens === 1 ? "token" : "tokens"} in ${many(sum.calls, "call")}`;
    const broken = rows.reduce((total, row) =>
      ["ok", "blocked"].includes(data.values.ending[row[at.ending]]) ? total : total + row[at.calls], 0);
    const figures = [
      ["Input", "input", sum.input, `${share(sum.input, sum.tokens)} of all`],
      ["Output", "output", sum.output, sum.reasoning ? `${share(sum.reasoning, sum.output)} reasoning` : `${share(sum.output, sum.tokens)} of all`],
      ["From a cache", "cached", sum.cached, `${share(sum.cached, sum.input)} of input`],
      ["Blocked calls", "blocked", sum.blocked, `${share(sum.blocked, sum.calls)} of calls`],
      ["Degraded calls", "degraded", sum.degraded, `${share(sum.degraded, sum.calls)} of calls`],
      ["Not completed", "broken", broken, "failed, cancelled, cut"],
    ];
    byId("figures").replaceChildren(...figures.map(([name, key, value, note]) =>
      el("div", {}, el("dt", {}, name), el("dd", { id: `figure-${key}`, "data-value": value, title: count(value) }, brief(value)),
        el("dd", { class: "more" }, note))));
  };

  const choosing = (target, facets, current, label, change) => {
    if (facets.length < 2) {
      return byId(target).replaceChildren(...(facets.length ? [el("p", { class: "aside" }, bdi(bare(facets[0])))] : []));
    }
    const select = el("select", { "aria-label": label, onchange: () => { change(select.value); show(); } },
      facets.map((facet) => el("option", { value: facet, selected: facet === current }, bare(facet))));
    return byId(target).replaceChildren(select);
  };

  const caching = (sum, rows) => {
    const target = byId("caching");
    if (!sum.input) return target.replaceChildren(nothing("No input in this selection."));
    const fresh = Math.max(0, sum.input - sum.cached - sum.written);
    const parts = [["cached", sum.cached, "Read from a cache"], ["written", sum.written, "Written to a cache"], ["input", fresh, "Not cached"]];
    const models = [...grouped(rows, (row) => row[at.model])].filter(([, one]) => one.cached)
      .sort(([a, x], [b, y]) => y.cached - x.cached || a - b).slice(0, 5);
    return target.replaceChildren(
      el("p", { class: "lead" }, el("b", { id: "saved", "data-value": sum.cached }, count(sum.cached)),
        el("span", {}, sum.cached
          ? `input tokens were read from a cache and not processed anew: ${share(sum.cached, sum.input)} of all input.`
          : "input tokens were read from a cache: no call made use of one.")),
      bar(parts.map(([key, value]) => [key, value]), sum.input, true),
      el("ul", { class: "legend" }, parts.map(([key, value, name]) =>
        el("li", {}, el("span", { class: `swatch c-${key}`, "aria-hidden": "true" }), `${name} ${count(value)}`))),
      ...(models.length ? [el("div", {}, table("Input read from a cache, by model", [["Model"], ["From cache"], ["Of its input"]],
        models.map(([place, one]) => el("tr", {}, el("th", { scope: "row" }, el("span", { class: "name" }, bdi(nameOf("model", place)))),
          el("td", { class: "strong" }, count(one.cached)), el("td", { class: "soft" }, share(one.cached, one.input))))))] : []));
  };

  const degraded = (rows) => {
    const groups = [...grouped(rows.filter((row) => row[at.degraded]), (row) => `${row[at.model_asked]} ${row[at.model]}`)]
      .sort(([, x], [, y]) => y.calls - x.calls);
    const target = byId("degraded");
    if (!groups.length) return target.replaceChildren(nothing("No call was degraded to a cheaper model."));
    const open = shown.all.has("degraded");
    return target.replaceChildren(table("Calls sent to another model", [["Asked for, and used"], ["Calls"], ["Tokens"]],
      groups.slice(0, open ? groups.length : FEW).map(([key, sum]) => {
        const [asked, used] = key.split(" ").map(Number);
        return el("tr", {}, el("th", { scope: "row" }, el("span", { class: "name" }, bdi(nameOf("model_asked", asked)), el("span", { class: "of" }, " → "), bdi(nameOf("model", used)))),
          el("td", { class: "strong" }, count(sum.calls)), el("td", { class: "soft" }, count(sum.tokens)));
      })), ...more("degraded", groups.length));
  };

  const budgets = () => {
    const target = byId("budgets");
    byId("standing").textContent = `as of ${minute(data.made)} UTC`;
    const found = data.budgets.filter((one) => {
      const facet = `dimension:${one.dimension}`;
      const place = chosen.facets[facet];
      return place === undefined || data.values[facet][place] === one.identifier;
    });
    if (!found.length) return target.replaceChildren(nothing(data.budgets.length ? "No budget matches the filters." : "The store has no budget."));
    const open = shown.all.has("budgets");
    const lines = found.slice(0, open ? found.length : FEW).map((one) => {
      const limited = one.limit !== null;
      const part = limited ? one.pct_used : 0;
      const level = part >= 0.9 ? "over" : part >= 0.7 ? "near" : "good";
      const tone = { over: "blocked", near: "degraded", good: "good" }[level];
      const held = limited ? Math.max(0, Math.min(one.reserved, one.limit - one.used)) : 0;
      const filled = limited ? Math.min(one.used, one.limit) : 0;
      return el("tr", { "data-name": `${one.dimension}=${one.identifier}`, "data-used": one.used, "data-limit": one.limit ?? "" },
        el("th", { scope: "row" }, el("span", { class: "name" }, el("span", { class: "of" }, bdi(one.dimension), " "), bdi(one.identifier)),
          heading(one) ? el("span", { class: "narrow" }, heading(one)) : null,
          limited ? bar([[tone, filled], ["calls", held], ["track", one.limit - filled - held]], one.limit) : null),
        // On a phone limit and outlook have no columns of their own.
        el("td", { class: "strong" }, count(one.used), el("span", { class: "narrow" }, limited ? `of ${count(one.limit)}` : "no limit")),
        el("td", { class: "soft less" }, limited ? count(one.limit) : "no limit"),
        el("td", { class: `state-${level}` }, limited ? share(one.used, one.limit) : ""),
        el("td", { class: "soft less" }, heading(one)));
    });
    return target.replaceChildren(
      table("How budgets stand", [["Budget"], ["Used"], ["Limit", "less"], ["Used up"], ["Outlook", "less"]], lines),
      ...more("budgets", found.length),
      ...(data.budgets_left_out ? [nothing(`${count(data.budgets_left_out)} more, less in need of a look: tokencap status --all`)] : []));
  };
  const heading = (one) => {
    const reset = one.resets_at === null ? "" : `resets ${day(one.resets_at)}, ${clock(one.resets_at)}`;
    if (one.exhausted_in_seconds === 0) return reset ? `used up, ${reset}` : "used up";
    if (one.exhausted_at !== null) return `used up about ${day(one.exhausted_at)}, ${clock(one.exhausted_at)}`;
    return reset;
  };

  const notes = (sum) => {
    const lines = [
      "Tokens are what budgets were charged: input and output, as the providers reported them. Input includes what was read from and written to a cache; output includes reasoning. All times are UTC. Budgets are as they stood when the report was made, whatever the time chosen.",
    ];
    if (sum.estimated) lines.push(`${many(sum.estimated, "call")} in this selection ended without a full report of the provider; ${sum.estimated === 1 ? "its amount is" : "their amounts are"} estimated.`);
    for (const [facet, number] of Object.entries(data.rest)) {
      lines.push(`${titleOf(facet)}: ${count(number)} names with few tokens are summed up as "everything else".`);
    }
    if (data.left_out.length) lines.push(`Without a filter of their own: ${data.left_out.map(bare).join(", ")}.`);
    lines.push("This file holds names and counts, no prompts and no replies. It loads nothing from any network.");
    byId("notes").replaceChildren(...lines.map((line) => el("p", {}, line)));
  };

  // -- filters -------------------------------------------------------------------------------------------

  const PRESETS = [["Last hour", 3600], ["Last 24 hours", 86400], ["Last 7 days", 604800], ["Last 30 days", 2592000]]
    .filter(([, seconds]) => seconds >= STEP && seconds < END - FIRST);
  const stamp = (seconds) => dateOf(seconds).toISOString().slice(0, 16);
  const fields = {};

  const build = () => {
    const field = (name, control, wide = false) =>
      el("div", { class: `field${wide ? " wide" : ""}` }, el("label", { for: control.id }, bdi(name)), control);
    const time = el("select", { id: "f-time", onchange: () => {
      if (time.value === "custom") return refresh(true);
      const preset = PRESETS[time.value];
      return choose(preset ? { from: Math.max(FIRST, data.until - preset[1]), to: null } : { from: null, to: null });
    } }, el("option", { value: "" }, "All of the report"), PRESETS.map(([name], n) => el("option", { value: n }, name)), el("option", { value: "custom" }, "From … to …"));
    const limits = { type: "datetime-local", min: stamp(FIRST), max: stamp(END), step: Math.min(STEP, 86400) % 60 ? undefined : 60 };
    const read = (input) => (input.value ? Date.parse(`${input.value}Z`) / 1000 : null);
    const edges = () => { const [from, to] = [read(fields.from), read(fields.to)]; if (from === null || to === null || from < to) choose({ from, to }); };
    fields.time = time;
    fields.from = el("input", { id: "f-from", ...limits, onchange: edges });
    fields.to = el("input", { id: "f-to", ...limits, onchange: edges });
    byId("fields").append(field("Time", time, true), field("From (UTC)", fields.from), field("To (UTC)", fields.to),
      ...FILTERS.map((facet, n) => {
        const used = new Set(data.rows.map((row) => row[at[facet]]));
        const places = data.values[facet].map((_, place) => place).filter((place) => used.has(place));
        const select = el("select", { id: `f-${n}`, "data-facet": facet, onchange: () =>
          choose({ facets: { [facet]: select.value === "" ? undefined : Number(select.value) } }) },
        el("option", { value: "" }, "All"), places.map((place) => el("option", { value: place }, nameOf(facet, place))));
        fields[facet] = select;
        return field(titleOf(facet), select);
      }));
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filter-box").open = window.matchMedia("(min-width: 561px)").matches;
  };

  const refresh = (custom = false) => {
    const [from, to] = range();
    const narrowed = chosen.from !== null || chosen.to !== null;
    const preset = chosen.to === null && chosen.from !== null
      ? PRESETS.findIndex(([, seconds]) => Math.max(FIRST, data.until - seconds) === chosen.from) : -1;
    fields.time.value = custom ? "custom" : preset >= 0 ? String(preset) : narrowed ? "custom" : "";
    fields.time.classList.toggle("on", narrowed);
    const own = fields.time.value === "custom";
    for (const [input, value] of [[fields.from, from], [fields.to, to]]) {
      input.closest(".field").hidden = !own;
      input.value = stamp(value);
    }
    for (const facet of FILTERS) {
      fields[facet].value = chosen.facets[facet] ?? "";
      fields[facet].classList.toggle("on", chosen.facets[facet] !== undefined);
    }
    const chips = Object.entries(chosen.facets).map(([facet, place]) => chip(titleOf(facet), nameOf(facet, place), { facets: { [facet]: undefined } }));
    if (narrowed) chips.unshift(chip("Time", `${minute(from)} – ${minute(to)}`, { from: null, to: null }));
    byId("active").hidden = !chips.length;
    byId("active").replaceChildren(...chips, el("button", { type: "button", class: "link", id: "clear", onclick: clear }, "Clear all"));
  };
  const chip = (what, text, change) => el("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${what}: ${text}`, onclick: () => { choose(change); byId("main").focus({ preventScroll: true }); } },
    el("span", {}, el("span", { class: "what" }, bdi(what), " "), bdi(text)));
  const clear = () => {
    chosen.facets = {};
    choose({ from: null, to: null });
    byId("main").focus({ preventScroll: true });
  };

  // Changes what is chosen and draws the page anew.
  const choose = (change) => {
    const focused = document.activeElement?.closest?.("tr")?.dataset.name;
    const inside = document.activeElement?.closest?.("section > div[id], .pair > div > div[id]")?.id;
    if ("from" in change) [chosen.from, chosen.to] = [change.from, change.to];
    for (const [facet, place] of Object.entries(change.facets ?? {})) {
      if (place === undefined) delete chosen.facets[facet];
      else chosen.facets[facet] = place;
    }
    show();
    if (focused !== undefined && inside) {
      const row = [...byId(inside).querySelectorAll("tr")].find((one) => one.dataset.name === focused);
      row?.querySelector("button")?.focus({ preventScroll: true });
    }
  };

  const show = (focus) => {
    const rows = matching();
    const sum = rows.reduce(add, fresh());
    refresh();
    summary(sum, rows);
    shown.series = shown.split ? split(shown.split, rows) : KINDS;
    tokensChart.show(rows, shown.series);
    stoppedChart.show(rows, STOPS);
    ranking(byId("by-model"), "model", "model", rows, "Tokens by model", "Model");
    choosing("pick-dimension", DIMENSIONS, shown.dimension, "Dimension", (facet) => { shown.dimension = facet; });
    if (shown.dimension) ranking(byId("by-identifier"), shown.dimension, shown.dimension, rows, `Tokens by ${bare(shown.dimension)}`, bare(shown.dimension));
    else byId("by-identifier").replaceChildren(nothing("No call has an identifier."));
    choosing("pick-tag", TAGS, shown.tag, "Tag", (facet) => { shown.tag = facet; });
    if (shown.tag) ranking(byId("by-tag"), shown.tag, shown.tag, rows, `Tokens by ${bare(shown.tag)}`, bare(shown.tag));
    else byId("by-tag").replaceChildren(nothing("No call has a tag. tokencap.scope(tags={\"agent\": \"planner\"}) gives calls one."));
    ranking(byId("by-ending"), "ending", "ending", rows, "Calls by ending", "Ending", "calls");
    degraded(rows);
    caching(sum, rows);
    budgets();
    notes(sum);
    byId("said").textContent = `${many(sum.tokens, "token")} in ${many(sum.calls, "call")} shown.`;
    if (focus) document.querySelector(focus)?.focus({ preventScroll: true });
  };

  byId("scope").replaceChildren(`${minute(data.since)} – ${minute(data.until)} UTC`, el("span", { "aria-hidden": "true" }, "  ·  "), bdi(data.backend));
  const splitting = el("select", { id: "split", "aria-label": "What the columns are made of", onchange: () => { shown.split = splitting.value; show(); } },
    el("option", { value: "" }, "input and output"), FILTERS.map((facet) => el("option", { value: facet }, `by ${titleOf(facet)}`)));
  byId("per").textContent = `per ${span(STEP)}, UTC`;
  byId("pick-split").append(splitting);
  build();
  show();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    charts.forEach((chart) => chart.draw());
  });
})();
