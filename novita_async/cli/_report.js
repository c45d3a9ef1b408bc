
"use strict";
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // --- What is told: files and rows, in the order of the journal ------------------------------------------

  const pictures = [], rows = [];
  for (const entry of JSON.parse(find("#entries").textContent)) (entry.state ? rows : pictures).push(entry);
  const commands = JSON.parse(find("#commands").textContent);
  const beside = JSON.parse(find("#beside").textContent);

  const STATES = {
    saved: "✓", succeeded: "↓", submitted: "…", announced: "↑", planned: "○", failed: "✕", uncertain: "?",
  };
  const INSTEAD = {
    planned: "not sent yet", announced: "on its way", submitted: "paid for, not seen finished",
    succeeded: "done and paid for, files not saved", saved: "no files", uncertain: "never answered: perhaps paid for",
  };
  /** What a state is called, where its name alone would say too little. */
  const NAMES = { succeeded: "not saved" };
  const number = (value) => value.toLocaleString("en");
  const seconds = (value) => {
    if (value < 59.95) return `${value.toFixed(value < 9.95 ? 1 : 0)} s`;
    const whole = Math.round(value), pad = (part) => String(part).padStart(2, "0");
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
    return `${Math.floor(whole / 3600)} h ${pad(Math.floor(whole / 60) % 60)}`;
  };
  const clock = (time) => new Date(time * 1000).toISOString().slice(0, 19).replace("T", " ");
  const body = (row) => row.request.request ?? row.request;
  const leaves = (value) =>
    value !== null && typeof value === "object" ? Object.values(value).flatMap(leaves) : [String(value)];
  const flat = (value, path = "") =>
    value !== null && typeof value === "object"
      ? Object.entries(value).flatMap(([name, item]) =>
          flat(item, Array.isArray(value) ? `${path} ${Number(name) + 1}` : path ? `${path} ${name}` : name))
      : [[path.replaceAll("_", " ").replace(" base64", ""), String(value)]];

  const texts = new Map();
  const text = (row) => {
    if (!texts.has(row)) {
      const names = [...row.inputs.map((input) => input[1]), ...row.outputs].map((index) => pictures[index].name);
      const own = [`#${row.no}`, row.id, ...leaves(row.metadata ?? {}), row.state, NAMES[row.state], row.endpoint, row.seed, row.task, row.account, ...names];
      const error = row.error ? [row.error.kind, row.error.reason, row.error.text] : [];
      texts.set(row, [...own, ...error, ...leaves(row.request)].filter((each) => each != null).join("\n").toLowerCase());
    }
    return texts.get(row);
  };

  // --- Rows of a large batch, which lie beside the page ---------------------------------------------------

  const whole = Object.values(beside.states).reduce((sum, count) => sum + count, 0);
  const known = new Set(rows.map((row) => row.serial));
  const left = () => whole - rows.length;
  const without = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value != null));
  const ESCAPES = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };
  const hex = (sign, digits) => sign.codePointAt(0).toString(16).padStart(digits, "0");
  const unseen = (words) => words.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (sign) => ESCAPES[sign] ?? (sign < "\u0100" ? `\\x${hex(sign, 2)}` : `\\u${hex(sign, 4)}`));
  const base = (path) => path.split(/[\\/]/).pop();
  const picture = (name, href) => pictures.push({
    name: unseen(name), href, shown: /\.(png|jpe?g|webp|gif|avif|bmp)$/i.test(name) }) - 1;
  const MAIN = ["image_base64", "image", "image_file", "init_image"];
  const label = (place) => place.filter((step) => !["request", "units", ...MAIN].includes(step)).join(" ")
    .replaceAll("_", " ").replaceAll(" base64", "") || "input";
  /** Every picture of a request with its place, the one that is changed before those that guide. */
  const sent = (value, place = []) => {
    if (value === null || typeof value !== "object") return [];
    if (value.$picture) return [[label(place), value]];
    if (Array.isArray(value)) return value.flatMap((item, index) => sent(item, [...place, String(index + 1)]));
    const names = Object.keys(value).sort().sort((a, b) => MAIN.includes(b) - MAIN.includes(a));
    return names.flatMap((name) => sent(value[name], [...place, name]));
  };
  const readable = (value) => {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(readable);
    if (!value.$picture) return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, readable(item)]));
    const digest = `sha256:${value.$picture.slice(0, 12)}…`;
    return value.path ? `${value.path} (${digest})` : `picture ${digest}`;
  };
  const inputs = new Map();
  const input = ({ $picture: digest, path }, where) => {
    const id = `${digest} ${path}`;
    if (!inputs.has(id)) {
      const name = path ? base(path) : `${digest.slice(0, 12)}…`;
      const folder = path && where.folders[path.slice(0, -name.length).replace(/(.)[\\/]$/, "$1")];
      const copy = where.copies[digest];
      if (copy) inputs.set(id, pictures.push({ name: unseen(name), href: `inputs/${encodeURIComponent(copy)}`, shown: true }) - 1);
      else if (folder) inputs.set(id, picture(name, `${folder}/${encodeURIComponent(name)}`));
      else inputs.set(id, pictures.push({ name: unseen(name), lack: `${unseen(name)} is not beside this page` }) - 1);
    }
    return inputs.get(id);
  };
  const span = (from, to) => from == null || to == null ? null : Math.round(Math.max(0, to - from) * 1000) / 1000;
  /** Text of an error with the reason before the ids. */
  const reasonFirst = (words) => {
    const found = /^(task \S+ |download of \S+ |submission of .*? )(?:failed|has no known end): (.+)$/s.exec(words);
    if (found) return `${found[2]} (${found[1].trim()})`;
    const silent = /^no answer (about task \S+): (.+)$/s.exec(words);
    return silent ? `no answer: ${silent[2]} (${silent[1]})` : words;
  };
  /** A row as the journal has it, in the form of those in the page. */
  const told = ([serial, position, state, endpoint, images, account, task, attempts, announced, answered, finished,
    saved, seed, id, metadata, error, earlier, paths, times, nsfw, wire], where) => {
    const fields = wire.request ?? wire;
    const attempt = { account, announced_time: announced, answered_time: answered, task_id: task,
      perhaps: state === "uncertain" || answered == null };
    const tries = [...(earlier ?? []), ...(announced == null ? [] : [without(attempt)])]
      .sort((a, b) => a.announced_time - b.announced_time);
    const start = tries.at(-1)?.announced_time;
    const spans = without({
      queued: span(times?.submit_time, times?.execute_time), worked: span(times?.execute_time, times?.complete_time),
      saved: span(finished, saved), whole: span(start, saved ?? finished) });
    const word = (...names) => names.map((name) => fields[name]).find((value) => typeof value === "string");
    return without({
      serial, no: position + 1, id: id == null ? null : unseen(id), metadata, state, endpoint,
      model: word("model_name", "model"), prompt: word("prompt"), request: readable(wire), images,
      seed: seed ?? fields.seed, task, account, attempts, tries: tries.length ? tries : null, sent: start,
      finished, spans: Object.keys(spans).length ? spans : null, nsfw,
      error: error && { ...error, text: unseen(reasonFirst(error.text)) },
      inputs: sent(wire).map(([name, value]) => [name, input(value, where)]),
      outputs: (paths ?? []).map((path) => picture(base(path), encodeURIComponent(base(path)))),
    });
  };
  const waiting = new Map(beside.pieces.map(([file, count], index) => [index + 1, { file, count }]));
  /** Called by the script of a piece. */
  globalThis.novitaRows = (number, where, piece) => {
    waiting.delete(number);
    for (const each of piece) if (!known.has(each[0])) rows.push(told(each, where));
    for (const row of rows) known.add(row.serial);
  };
  const load = ([, { file }]) => new Promise((done, fail) => {
    const script = make("script", { src: file, onload: done, onerror: () => fail(file) });
    document.body.append(script);
  });
  const fetchRows = async (most) => {
    field.more.disabled = field.every.disabled = true;
    try {
      for (const piece of [...waiting].slice(0, most)) {
        field.left.value = `loading ${piece[1].file} …`;
        await load(piece);
      }
      renewChoices();
    } catch (file) {
      renewChoices();
      field.left.value = `${file} is not beside this page, or cannot be read`;
    }
    field.more.disabled = field.every.disabled = false;
  };
  const sayLeft = () => {
    const [next] = waiting.values();
    find(".beside").hidden = !next;
    field.left.value = `${number(left())} requests are not loaded: they are neither listed nor searched.`;
    if (next) field.more.textContent = `Load ${number(next.count)} more`;
  };

  // --- Filter and sort ------------------------------------------------------------------------------------

  const states = Object.keys(STATES);
  const inputName = (row) => row.inputs.length ? pictures[row.inputs[0][1]].name : null;
  const SORTS = {
    "place in batch": (row) => row.no,
    "id": (row) => row.id,
    "time of sending": (row) => row.sent,
    "time of finishing": (row) => row.finished,
    "seconds in all": (row) => row.spans?.whole,
    "seconds queued": (row) => row.spans?.queued,
    "seconds worked on": (row) => row.spans?.worked,
    "seconds to save": (row) => row.spans?.saved,
    "attempts": (row) => row.attempts,
    "seed": (row) => row.seed,
    "state": (row) => states.indexOf(row.state),
    "input": inputName,
    "prompt": (row) => row.prompt,
  };
  const collator = new Intl.Collator("en", { numeric: true });
  const orders = new Map();
  /** All rows in an order, sorted once; rows that lack the value come last, whichever way. */
  const ordered = (name, turned) => {
    const id = `${turned} ${name}`;
    if (!orders.has(id)) {
      const keys = rows.map((row, index) => [SORTS[name](row), index]);
      const sign = turned ? -1 : 1;
      const compare = (a, b) => typeof a === "string" ? collator.compare(a, b) : a - b;
      const known = keys.filter(([key]) => key != null).sort((a, b) => sign * compare(a[0], b[0]) || a[1] - b[1]);
      const unknown = keys.filter(([key]) => key == null);
      orders.set(id, [...known, ...unknown].map(([, index]) => rows[index]));
    }
    return orders.get(id);
  };

  const form = find(".filter");
  const field = form.elements;
  const output = find("output"), none = find(".none");
  let shown = rows;

  const options = (select, all, values) => {
    const { value } = select;
    select.replaceChildren(...(all ? [new Option(all, "")] : []), ...values.map((value) => new Option(value, value)));
    if (values.includes(value)) select.value = value;
    select.closest("label").hidden = values.length < 2;
  };
  const distinct = (name) => [...new Set(rows.map((row) => row[name]).filter(Boolean))].sort(collator.compare);
  const chip = (value, label, count) => {
    const input = make("input", { type: "radio", name: "state", value, checked: !value });
    return make("label", {}, input, make("span", { className: "chip" }, label, make("b", {}, number(count))));
  };
  const choices = () => {
    options(field.endpoint, "all", distinct("endpoint"));
    options(field.model, "all", distinct("model"));
  };
  const prepare = () => {
    choices();
    options(field.sort, "", Object.keys(SORTS));
    const counts = states.map((state) => [state, beside.states[state]]);
    const chips = counts.filter(([, count]) => count).map(([state, count]) => chip(state, NAMES[state] ?? state, count));
    find("fieldset", form).append(chip("", "all", whole), ...chips);
    field.more.onclick = () => fetchRows(1);
    field.every.onclick = () => fetchRows(Infinity);
    form.hidden = false;
    sayLeft();
  };
  /** List what has come, where the reader is. */
  const renewChoices = () => {
    orders.clear();
    choices();
    sayLeft();
    select({ stays: true });
  };

  // --- The address says what is listed, so that it can be passed on and gone back to ----------------------

  const pressed = (button) => button.ariaPressed === "true";
  /** What is listed, without what goes without saying. */
  const wanted = () => Object.entries({
    text: field.text.value, state: field.state.value, endpoint: field.endpoint.value, model: field.model.value,
    sort: field.sort.value === field.sort.options[0].value ? "" : field.sort.value,
    turned: pressed(field.turn) ? "1" : "", compact: pressed(field.view) ? "1" : "",
  }).filter(([, value]) => value);
  const note = () => {
    const address = new URLSearchParams(wanted()).toString();
    if (address !== location.hash.slice(1)) history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
  };
  const press = (button, is) => { button.ariaPressed = String(is); };
  const pick = (choice, value) => {
    choice.value = value;
    if (choice.value !== value) choice.value = choice.options[0].value;
  };
  /** Choose a state; `form.elements.state.value = ""` would choose none in Chromium. */
  const pickState = (value) => {
    const all = [...form.querySelectorAll("[name=state]")];
    (all.find((each) => each.value === value) ?? all[0]).checked = true;
  };
  const heed = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    field.text.value = given.get("text") ?? "";
    pickState(given.get("state") ?? "");
    for (const name of ["endpoint", "model"]) pick(field[name], given.get(name) ?? "");
    pick(field.sort, given.get("sort") ?? field.sort.options[0].value);
    press(field.turn, given.get("turned") === "1");
    press(field.view, given.get("compact") === "1");
    turnArrow();
    select();
  };
  const turnArrow = () => { find("span", field.turn).textContent = pressed(field.turn) ? "↓" : "↑"; };
  addEventListener("hashchange", heed);

  const select = ({ stays = false } = {}) => {
    const words = field.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { value: state } = field.state, { value: endpoint } = field.endpoint, { value: model } = field.model;
    const fits = (row) =>
      (!state || row.state === state) && (!endpoint || row.endpoint === endpoint) && (!model || row.model === model) &&
      words.every((word) => text(row).includes(word));
    const all = !words.length && !state && !endpoint && !model;
    const order = ordered(field.sort.value, field.turn.ariaPressed === "true");
    shown = all ? order : order.filter(fits);
    field.clear.hidden = all;
    none.hidden = shown.length > 0;
    output.value = all && !left() ? `${number(whole)} requests` : `${number(shown.length)} of ${number(whole)} requests`;
    if (!stays) place = 0;
    note();
    renew();
  };

  // --- The list: only what is in sight exists -------------------------------------------------------------

  const list = find(".list");
  const items = new Map();
  const TALLEST = 15e6, LEAST = 12;
  let place = 0, grid = { room: 0, columns: 1, width: 0, height: 0, gap: 0, picture: 0 };

  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const compact = () => field.view.ariaPressed === "true";
  const narrow = matchMedia("(max-width: 50rem)");
  const measure = () => {
    const gap = (compact() ? 0.5 : 0.9) * rem, room = list.clientWidth;
    const columns = compact() ? 1 : Math.max(1, Math.floor((room + gap) / (19.5 * rem + gap)));
    const width = (room - gap * (columns - 1)) / columns;
    const picture = compact() ? (narrow.matches ? 4.2 : 5.2) * rem : Math.round(width / 2);
    return { room, columns, width, gap, picture, height: compact() ? picture : picture + (narrow.matches ? 11.6 : 9.6) * rem };
  };
  const lines = () => Math.ceil(shown.length / grid.columns);
  const position = (index) => ({
    x: (index % grid.columns) * (grid.width + grid.gap),
    y: Math.floor(index / grid.columns) * (grid.height + grid.gap),
  });
  const renew = () => {
    for (const item of items.values()) item.remove();
    items.clear();
    layOut();
    if (list.getBoundingClientRect().top < 0) form.scrollIntoView();
    draw();
  };
  const layOut = () => {
    grid = measure();
    list.classList.toggle("compact", compact());
    list.style.setProperty("--w", `${grid.width}px`);
    list.style.setProperty("--h", `${grid.height}px`);
    list.style.setProperty("--p", `${grid.picture}px`);
    list.style.height = `${Math.min(TALLEST, Math.max(0, lines() * (grid.height + grid.gap) - grid.gap))}px`;
    for (const [index, item] of items) put(item, index);
  };
  const put = (item, index) => {
    const { x, y } = position(index);
    item.style.transform = `translate(${x}px, ${y}px)`;
  };
  const inSight = () => {
    const top = list.getBoundingClientRect().top, line = grid.height + grid.gap, spare = innerHeight * 0.75;
    const first = Math.max(0, Math.floor((-top - spare) / line)) * grid.columns;
    const last = Math.ceil((innerHeight - top + spare) / line) * grid.columns;
    return [first, Math.min(shown.length, Math.max(last, first + LEAST))];
  };
  const draw = () => {
    const [first, last] = inSight();
    for (const [index, item] of items) {
      if ((index < first || index >= last) && !item.contains(document.activeElement)) {
        item.remove();
        items.delete(index);
      }
    }
    const fresh = [];
    for (let index = first; index < last; index += 1) if (!items.has(index)) fresh.push(index);
    const there = [...items.keys()].sort((a, b) => a - b);
    for (const index of fresh) {
      const item = card(shown[index], index);
      put(item, index);
      list.insertBefore(item, items.get(there.find((other) => other > index)) ?? null);
      items.set(index, item);
    }
    rove();
  };
  /** One stop for the Tab key in the whole list: the item last visited, or the first in sight. */
  const rove = () => {
    const stop = items.has(place) ? place : Math.min(...items.keys());
    for (const [index, item] of items) item.firstChild.tabIndex = index === stop ? 0 : -1;
  };
  const visit = (index) => {
    place = Math.max(0, Math.min(shown.length - 1, index));
    const head = getComputedStyle(form).position === "sticky" ? form.offsetHeight + 8 : 8;
    const top = list.getBoundingClientRect().top + position(place).y;
    const over = top - head, under = top + grid.height + 8 - innerHeight;
    if (over < 0) scrollBy(0, over); else if (under > 0) scrollBy(0, Math.min(under, over));
    draw();
    items.get(place)?.firstChild.focus({ preventScroll: true });
  };

  let drawing = 0;
  const soon = (work) => { if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; work(); }); };
  addEventListener("scroll", () => soon(draw), { passive: true });
  new ResizeObserver(() => { if (list.clientWidth !== grid.room) soon(() => { layOut(); draw(); }); }).observe(list);
  addEventListener("resize", () => soon(draw));

  // --- One item -------------------------------------------------------------------------------------------

  const gap = (words, state = "") => make("span", { className: `gap ${state}` },
    make("span", { className: "sign", ariaHidden: "true" }, STATES[state] ?? "–"), make("span", { className: "clamp" }, words));
  const image = (picture, alt) => {
    if (!picture.shown || !(picture.thumbnail || picture.href)) return gap(picture.lack || picture.name);
    const element = make("img", { alt, loading: "lazy", decoding: "async" });
    element.addEventListener("error", () => element.replaceWith(gap(`${picture.name} cannot be shown`)));
    element.src = picture.thumbnail ?? picture.href;
    return element;
  };
  const fault = (row) => row.error ? (row.error.reason && !row.error.text.includes(row.error.reason) ? `${row.error.reason}: ` : "") + row.error.text : "";
  const results = (row) => {
    if (!row.outputs.length) {
      const words = row.state === "failed" ? fault(row) : INSTEAD[row.state];
      const span = gap(words, row.state);
      span.classList.add("out");
      return span;
    }
    const some = row.outputs.slice(0, 4).map((index, count) => image(pictures[index], `Result ${count + 1}`));
    const span = make("span", { className: some.length > 1 ? "out many" : "out" }, ...some);
    if (row.outputs.length > 4) span.append(make("span", { className: "more" }, `+${row.outputs.length - 4}`));
    return span;
  };
  const valued = (name, value) => value == null ? [] : [make("span", {}, `${name} `, make("b", {}, String(value)))];
  const settings = (row) => {
    const given = body(row), size = given.width && given.height ? `${given.width}×${given.height}` : given.size;
    return [
      ...valued("strength", given.strength), ...valued("seed", row.seed), ...valued("steps", given.steps), ...valued("", size),
    ];
  };
  const shares = (spans) => {
    const whole = spans.whole || 1, queued = Math.min(spans.queued ?? 0, whole);
    const worked = Math.min(spans.worked ?? 0, whole - queued);
    return [queued, worked, whole - queued - worked].map((span) => (span / whole) * 100);
  };
  const track = (row) => {
    const bar = make("span", { className: "track", ariaHidden: "true" });
    if (row.spans?.whole == null || row.spans.worked == null) return bar;
    for (const share of shares(row.spans)) {
      const part = make("i");
      part.style.setProperty("--share", `${share}%`);
      bar.append(part);
    }
    return bar;
  };
  const times = (row) => row.error
    ? [make("span", { className: "why" }, fault(row))]
    : ["queued", "worked", "saved"].filter((name) => row.spans?.[name] != null)
      .map((name) => make("span", { className: name }, `${name} `, make("b", {}, seconds(row.spans[name]))));
  const badge = (row) => make("span", { className: `badge ${row.state}` }, `${STATES[row.state]} ${NAMES[row.state] ?? row.state}`);
  const tries = (row) => row.attempts > 1 ? ` · ${row.attempts} attempts` : "";
  const own = (row) => row.id == null ? [] : [make("span", { className: "own", title: row.id }, row.id)];
  const card = (row, index) => {
    const shownInputs = row.inputs.slice(0, 1).map(([, input]) => make("span", {}, image(pictures[input], "Input")));
    const open = make("button", { type: "button", className: "open", onclick: () => show(index) },
      make("span", { className: "pictures" }, ...shownInputs, results(row)),
      make("span", { className: "words" },
        make("span", { className: "top" }, badge(row), ...own(row), make("span", {}, `#${row.no}${tries(row)}`)),
        make("span", { className: "prompt" }, row.prompt ? make("q", {}, row.prompt) : row.endpoint),
        make("span", { className: "settings" }, ...settings(row)),
        ...(row.error ? [] : [track(row)]),
        make("span", { className: row.error ? "times fault" : "times" }, ...times(row))));
    open.dataset.no = row.no;
    return make("li", { className: "card", ariaSetSize: String(shown.length), ariaPosInSet: String(index + 1) }, open);
  };

  // --- One request, large ---------------------------------------------------------------------------------

  const dialog = find("dialog"), facts = find(".facts");
  const after = find(".after"), before = find(".before"), lack = find(".stage .lack");
  const compare = find(".compare"), slider = find(".compare input"), strip = find(".strip");

  const split = () => before.style.setProperty("--split", `${slider.value}%`);
  const source = (img, picture, alt) => {
    img.hidden = !picture?.shown || !(picture.href || picture.thumbnail);
    img.alt = img.hidden ? "" : alt;
    if (img.hidden) return img.removeAttribute("src");
    img.onerror = () => {
      if (picture.thumbnail && img.src !== picture.thumbnail) img.src = picture.thumbnail; else img.hidden = true;
    };
    img.src = picture.href ?? picture.thumbnail;
  };
  const look = (row, picture, isResult) => {
    const input = row.inputs.length ? pictures[row.inputs[0][1]] : null;
    source(after, picture, isResult ? "Result" : "Input");
    source(before, isResult ? input : null, "Input");
    compare.hidden = after.hidden || before.hidden;
    lack.hidden = !after.hidden;
    lack.textContent = picture ? picture.lack || `${picture.name} is not a picture` : fault(row) || INSTEAD[row.state];
    slider.value = 0;
    split();
  };
  const looks = (row) => [
    ...row.outputs.map((index, count) => ({ picture: pictures[index], label: row.outputs.length > 1 ? `result ${count + 1}` : "result", isResult: true })),
    ...row.inputs.map(([label, index]) => ({ picture: pictures[index], label, isResult: false })),
  ];
  const choice = (row, { picture, label, isResult }) => {
    const button = make("button", { type: "button", ariaPressed: "false", title: picture.name }, image(picture, ""), make("small", {}, label));
    button.onclick = () => {
      for (const other of strip.querySelectorAll("button")) other.ariaPressed = String(other === button);
      look(row, picture, isResult);
    };
    return make("li", {}, button);
  };
  const pairs = (entries) => make("dl", {}, ...entries.filter(([, value]) => value != null && value !== "")
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const part = (title, ...content) => make("section", {}, make("h3", {}, title), ...content);
  const command = (text) => make("code", {}, text);
  const ADVICE = {
    planned: () => ["Not sent yet. ", command(commands.resume), " goes on with the batch."],
    announced: () => ["About to be sent when the journal was read. If nothing runs any more, ", command(commands.resume), " finds out what is known."],
    submitted: () => ["Paid for, end not seen. ", command(commands.resume), " fetches it; it is not bought again."],
    succeeded: () => ["Done and paid for, files not saved. ", command(commands.resume), " fetches them."],
    uncertain: () => ["Perhaps paid for. Look at the account’s bill; where nothing was charged, ", command(commands.uncertain), " buys it again. Where it was, that pays twice."],
    failed: (row) => row.error?.retryable
      ? ["Another try can succeed: ", command(commands.retry), "."]
      : ["The same request would fail again; change it first."],
  };
  const advice = (row) => !ADVICE[row.state] ? [] : [make("div", { className: `advice ${row.state}` },
    ...(row.error ? [make("p", {}, make("b", {}, row.error.reason ?? row.error.kind), `: ${row.error.text}`)] : []),
    make("p", {}, ...ADVICE[row.state](row)))];
  const file = (index) => {
    const { name, href, lack: why } = pictures[index];
    return make("div", {}, href ? make("a", { href, target: "_blank", rel: "noopener" }, name) : why);
  };
  const files = (row) => row.outputs.length ? [part("Files", ...row.outputs.map(file))] : [];
  const timing = (row) => part("Time", track(row), pairs([
    ["sent", row.sent == null ? null : clock(row.sent)],
    ["queued", row.spans?.queued == null ? null : seconds(row.spans.queued)],
    ["worked on", row.spans?.worked == null ? null : seconds(row.spans.worked)],
    ["end seen", row.finished == null ? null : clock(row.finished)],
    ["saving", row.spans?.saved == null ? null : seconds(row.spans.saved)],
    ["in all", row.spans?.whole == null ? null : seconds(row.spans.whole)],
  ]));
  const attempt = (one) => {
    const end = one.task ?? one.task_id;
    const how = end ? `task ${end}` : one.perhaps ? "perhaps bought" : "not bought";
    return make("li", {}, `${clock(one.announced_time)}${one.account ? `, ${one.account}` : ""}: ${how}`);
  };
  const attempts = (row) => row.tries?.length > 1 || row.attempts > 1
    ? [part(`${number(row.attempts)} attempts`, make("ul", {}, ...(row.tries ?? []).map(attempt)))] : [];
  const made = (row) => {
    const skip = new Set(["prompt", "seed"]);
    const asked = body(row).seed;
    return part("Settings", pairs([
      ["model", row.model], ["seed", row.seed == null ? null : String(row.seed)],
      ["seed asked for", asked != null && asked !== row.seed ? String(asked) : null],
      ...flat(Object.fromEntries(Object.entries(body(row)).filter(([name]) => !skip.has(name) && !name.startsWith("model"))))
    ]));
  };
  const ownWords = (row) => row.id == null && !row.metadata ? [] : [part("Your own", pairs([
    ["id", row.id], ...flat(row.metadata ?? {})]))];
  const service = (row) => part("Service", pairs([
    ["endpoint", row.endpoint], ["task", row.task], ["account", row.account],
    ["images asked for", number(row.images)],
    ["NSFW check", row.nsfw?.map((value) => value == null ? "not checked" : `${value}`).join(", ")],
  ]));
  const json = (row) => make("details", {}, make("summary", {}, "The request as JSON"), make("pre", { tabIndex: 0 }, JSON.stringify(row.request, null, 2)));

  let opened = 0;  // the browser itself gives the focus back to where it was, which is not where the reader is now
  const show = (index) => {
    opened = (index + shown.length) % shown.length;
    const row = shown[opened];
    find("#about").replaceChildren(`#${row.no} `, ...(row.id == null ? [] : [`${row.id} `]), badge(row));
    const buttons = looks(row).map((each) => choice(row, each));
    strip.replaceChildren(...buttons);
    strip.hidden = buttons.length < 2;
    const first = row.outputs.length ? find("button", buttons[0]) : null;
    if (first) first.click(); else look(row, null, true);
    facts.replaceChildren(
      ...advice(row), ...(row.prompt ? [make("blockquote", {}, row.prompt)] : []),
      ...ownWords(row), made(row), timing(row), ...attempts(row), ...files(row), service(row), json(row));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };

  slider.addEventListener("input", split);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    const step = event.target.closest("[data-step]");
    if (step) show(opened + Number(step.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && event.target !== slider) show(opened + step);
  });
  dialog.addEventListener("close", () => visit(opened));

  // --- What people do -------------------------------------------------------------------------------------

  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(innerHeight / (grid.height + grid.gap)) - 1) * grid.columns;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, PageUp: -page, PageDown: page,
      Home: -Infinity, End: Infinity,
    };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    visit(place + steps[event.key]);
  });
  list.addEventListener("focusin", (event) => {
    for (const [index, item] of items) if (item.contains(event.target)) place = index;
    rove();
  });
  const toggle = (button) => { button.ariaPressed = String(button.ariaPressed !== "true"); };
  field.turn.onclick = () => {
    toggle(field.turn);
    turnArrow();
    select();
  };
  field.view.onclick = () => { toggle(field.view); note(); renew(); };
  field.clear.onclick = () => {
    field.text.value = field.endpoint.value = field.model.value = "";
    pickState("");
    select();
    field.text.focus();
  };
  field.text.addEventListener("input", () => select());
  form.addEventListener("change", (event) => { if (event.target !== field.text) select(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll(".show")) {
    button.onclick = () => {
      field.endpoint.value = field.model.value = "";
      pickState(button.dataset.state);
      field.text.value = button.dataset.text ?? "";
      select();
      form.scrollIntoView();
      output.closest("form").elements.text.focus({ preventScroll: true });
    };
  }
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || dialog.open || event.target.closest("input, select")) return;
    event.preventDefault();
    field.text.focus();
  });

  // Paper has no window to scroll: print what is listed, up to what somebody may want on paper.
  const PRINTED = 600;
  addEventListener("beforeprint", () => {
    for (const item of items.values()) item.remove();
    items.clear();
    shown.slice(0, PRINTED).forEach((row, index) => {
      const item = card(row, index);
      for (const img of item.querySelectorAll("img")) img.loading = "eager";
      items.set(index, item);
      list.append(item);
    });
  });
  addEventListener("afterprint", renew);

  prepare();
  heed();
  (window.requestIdleCallback ?? setTimeout)(() => rows.forEach(text));
})();
