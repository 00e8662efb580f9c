// What the tests of the report ask its page, put into it once it is open.
window.probe = (() => {
  const all = (place, root = document) => [...root.querySelectorAll(place)];
  const named = (one) => `${one.localName}.${one.className.baseVal ?? one.className}`;
  const change = (control, value) => {
    control.value = value;
    control.dispatchEvent(new Event("change", { bubbles: true }));
  };
  // How light a colour is, as WCAG has it.
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const written = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());

  return {
    text: (place) => document.querySelector(place).textContent,
    texts: (place) => all(place).map((one) => one.textContent),
    click: (place) => document.querySelector(place).click(),
    number: (place) => Number(document.querySelector(place)?.dataset.value ?? 0),
    figures: () => Object.fromEntries(all("#figures dd[id]").map((one) => [one.id.slice(7), Number(one.dataset.value)])),
    table: (place, what = "value") =>
      Object.fromEntries(all(`${place} tbody tr`).map((row) => [row.dataset.name, Number(row.dataset[what])])),
    cells: (place) => all(`${place} tbody tr`).map((row) => [...row.cells].map((cell) => cell.textContent)),
    parts: (place) => all(`${place} rect.part`).map((rect) =>
      [Number(rect.dataset.period), rect.dataset.series, Number(rect.dataset.value), rect.getBoundingClientRect().height]),
    spots: (place) => all(`${place} .hit`).map((rect) => rect.getBoundingClientRect()).map((box) => [box.x, box.y]),
    set: (place, value) => change(document.querySelector(place), value),
    pick: (label, text) => {
      const field = all("#fields .field").find((one) => one.querySelector("label").textContent === label);
      const select = field.querySelector("select");
      change(select, [...select.options].find((one) => one.textContent === text).value);
    },
    forbidden: () => new Promise((done) => {
      document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
      new Image().src = "http://127.0.0.1:9/x.png";
    }),

    // Controls without a name, and tables without a caption or heads.
    nameless: () => [
      ...all("select, input").filter((one) => !one.labels.length && !one.ariaLabel),
      ...all("button").filter((one) => !(one.ariaLabel || one.textContent.trim())),
      ...all("table").filter((one) => !(one.caption && one.querySelector("thead th[scope]") && one.querySelector("tbody th[scope]"))),
    ].map(named),
    landmarks: () => ["header", "form[aria-label]", "main", "footer"].filter((one) => document.querySelector(one)),
    headings: () => all("h1, h2, h3").map((one) => one.localName),
    // What sticks out of the window, but for what is to be scrolled.
    outside: (width) => all("body *")
      .filter((one) => !one.closest(".scroll, .sr, .skip") && one.getBoundingClientRect().right > width + 1)
      .map(named),
    // Texts whose contrast with the ground is below 4.5 : 1.
    faint: () => {
      const ground = light(getComputedStyle(document.body).backgroundColor);
      const ratio = (one) => {
        const style = getComputedStyle(one);
        const ink = light(one.namespaceURI.endsWith("svg") ? style.fill : style.color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      };
      return all("body *")
        .filter((one) => written(one) && !one.closest("script, style, noscript, .sr, .skip") && ratio(one) < 4.5)
        .map((one) => `${named(one)} ${ratio(one).toFixed(2)}`);
    },
  };
})();
