"use strict";
// Text from the data only ever becomes textContent, an attribute or a CSV cell: never markup.
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const RECORDS = DATA.records;
  const SHOWN_PER_CLASS = 16;
  const SHOWN_PER_PAGE = 160;
  const $ = (id) => document.getElementById(id);
  const TABS = [
    { name: "Labels", issues: ["label"] },
    { name: "Ambiguous", issues: ["ambiguous"] },
    { name: "Duplicates", issues: ["duplicate", "near_duplicate"], grouped: true },
    { name: "Leaks", issues: ["leak"], grouped: true },
    { name: "Unreadable", issues: ["unreadable"] },
  ].filter((tab) => RECORDS.some((record) => tab.issues.includes(record.issue)));

  const state = { tab: TABS[0], query: "", pair: null, status: "all", order: "class", cut: 0, hide: false,
                  expanded: new Set(), shown: SHOWN_PER_PAGE, current: null };
  let decisions = new Map(); // key -> { decision, label }
  const history = [];

  // ------------------------------------------------------------------ decisions
  const STORE = "curation " + DATA.fingerprint;
  const remember = () => {
    try { localStorage.setItem(STORE, JSON.stringify([...decisions])); } catch { /* No storage: CSV only. */ }
  };
  const recall = () => {
    try { decisions = new Map(JSON.parse(localStorage.getItem(STORE) ?? "[]")); } catch { decisions = new Map(); }
  };
  const change = (edits) => { // [key, decision or null] pairs; one step of undo
    if (!edits.length) return;
    history.push(edits.map(([key]) => [key, decisions.get(key) ?? null]));
    apply(edits);
  };
  const apply = (edits) => {
    for (const [key, decision] of edits) {
      if (decision) decisions.set(key, decision); else decisions.delete(key);
      for (const card of document.querySelectorAll(".card")) if (RECORDS[card.dataset.n].key === key) paint(card);
    }
    remember();
    summarize();
  };
  const decide = (record, what, label) => {
    if (what === "relabel" && !(label ?? record.suggested)) return announce("There is no suggested label: press Enter and choose one.");
    const decision = what === "clear" ? null : { decision: what, label: what === "relabel" ? label ?? record.suggested : "" };
    change([[record.key, decision]]);
    announce(`${what} ${record.path}`);
  };
  const announce = (text) => { $("announce").textContent = text; };

  // ------------------------------------------------------------------ filters
  const cut = () => DATA.cuts[state.cut] ?? null;
  const above = (record) => record.issue !== "label" || !cut() || record.score >= cut().score;
  const matches = (record) => {
    if (!state.tab.issues.includes(record.issue)) return false;
    if (state.query && ![record.label, record.suggested].some((name) => name.toLowerCase().includes(state.query))) return false;
    if (state.pair && (record.label !== state.pair[0] || record.suggested !== state.pair[1])) return false;
    if (state.status !== "all" && decisions.has(record.key) !== (state.status === "decided")) return false;
    return !state.hide || above(record);
  };

  // ------------------------------------------------------------------ cards
  const element = (name, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };
  const picture = (record) => {
    if (!record.image) return record.issue === "unreadable" ? "unreadable" : "no picture";
    const image = element("img", { src: record.image, alt: record.label, loading: "lazy", decoding: "async" });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64));
    return image;
  };
  const percent = (value) => `${(100 * value).toFixed(value < 0.0995 || (value > 0.995 && value < 0.9995) ? 1 : 0)} %`;
  const labels = (record, node) => {
    const told = state.order === "class" && !state.tab.grouped && DATA.classes.includes(record.label);
    const suggests = record.suggested && record.suggested !== record.label;
    if (!told || !suggests) node.append(record.label || record.path, " ");
    if (suggests) {
      node.append("→ ", element("span", { className: "to", textContent: record.suggested }));
    }
    return node;
  };
  const card = (record) => {
    const wrong = record.probability === null ? (record.detail ? "" : `score ${record.score.toFixed(3)}`)
      : `${percent(record.probability)} wrong`;
    const facts = [wrong, record.detail].filter(Boolean).join(", ");
    const node = element("figure", { className: "card", tabIndex: -1, title: record.path },
      element("div", { className: "pic" }, picture(record)),
      element("figcaption", {}, labels(record, element("span", { className: "text" })), element("small", { textContent: facts })));
    node.dataset.n = record.n;
    node.dataset.key = record.key;
    paint(node);
    return node;
  };
  const paint = (node) => {
    const record = RECORDS[node.dataset.n];
    const made = decisions.get(record.key);
    node.dataset.decision = made?.decision ?? "";
    node.querySelector(".pic").dataset.mark = made ? (made.decision === "relabel" ? "→ " + made.label : made.decision) : "";
    node.classList.toggle("below", !above(record));
    node.setAttribute("aria-label", `${record.label} ${record.suggested} ${made?.decision ?? "undecided"}`);
  };

  // ------------------------------------------------------------------ gallery
  const strips = (records) => {
    if (state.tab.grouped) return groupBy(records, (record) => record.group || record.key, (record) => record.group || record.path);
    if (state.order === "rank" || !records.some((record) => DATA.classes.includes(record.label))) return [["", records]];
    return groupBy(records, (record) => record.label, (record) => record.label).sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
  };
  const groupBy = (records, key, title) => {
    const groups = new Map();
    for (const record of records) {
      if (!groups.has(key(record))) groups.set(key(record), [title(record), []]);
      groups.get(key(record))[1].push(record);
    }
    return [...groups.values()];
  };
  const strip = (title, records, budget) => {
    const few = title && !state.tab.grouped && !state.expanded.has(title) ? SHOWN_PER_CLASS : Infinity;
    const shown = records.slice(0, Math.min(few, budget));
    const node = element("section", { className: "strip" });
    if (title) {
      const head = element("h3", { textContent: state.tab.grouped ? `${records.length} alike` : title });
      const size = state.tab.grouped ? "" : `given label · ${records.length} on this page`;
      head.append(element("small", { textContent: size }));
      if (state.tab.grouped && records.length > 1) {
        head.append(button("keep the first, drop the others", () => change(records.map((record, n) =>
          [record.key, { decision: n ? "drop" : "keep", label: "" }]))));
      } else if (records.length > few) {
        head.append(button(`show all ${records.length}`, () => { state.expanded.add(title); render(); }));
      }
      node.append(head);
    }
    node.append(element("div", { className: "cards" }, ...shown.map(card)));
    return [node, shown.length];
  };
  const button = (text, action) => {
    const node = element("button", { type: "button", className: "quiet", textContent: text });
    node.addEventListener("click", action);
    return node;
  };
  const render = () => {
    const records = RECORDS.filter(matches);
    const nodes = [];
    let left = state.shown;
    let hidden = 0;
    for (const [title, members] of strips(records)) {
      if (left <= 0) { hidden += members.length; continue; }
      const [node, used] = strip(title, members, left);
      if (!title && members.length > used) hidden += members.length - used;
      nodes.push(node);
      left -= used;
    }
    if (hidden) {
      nodes.push(element("p", { className: "more" }, button(`show more (${hidden} left)`, () => { state.shown += SHOWN_PER_PAGE; render(); })));
    }
    $("gallery").replaceChildren(...nodes);
    $("gallery").classList.toggle("grouped", !!state.tab.grouped);
    $("empty").hidden = records.length > 0;
    select(state.current !== null && find(state.current) ? state.current : null);
    summarize();
  };
  const fresh = () => { state.shown = SHOWN_PER_PAGE; render(); };

  // ------------------------------------------------------------------ moving
  const cards = () => [...document.querySelectorAll(".card")];
  const find = (n) => document.querySelector(`.card[data-n="${n}"]`);
  const select = (n, focus = false) => {
    for (const node of document.querySelectorAll(".card.current")) { node.classList.remove("current"); node.tabIndex = -1; }
    const node = n === null ? null : find(n);
    state.current = node ? n : null;
    (node ?? document.querySelector(".card"))?.setAttribute("tabindex", "0");
    if (!node) return;
    node.classList.add("current");
    if (focus) node.focus({ preventScroll: true });
    if (focus) node.scrollIntoView({ block: "nearest" });
    if ($("detail").open) detail();
  };
  const step = (by) => {
    const all = cards();
    const at = all.findIndex((node) => Number(node.dataset.n) === state.current);
    const next = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + by))];
    if (next) select(Number(next.dataset.n), true);
  };
  const stepRow = (by) => { // to the nearest card of the next row above or below
    const from = state.current === null ? null : find(state.current)?.getBoundingClientRect();
    if (!from) return step(1);
    let best = null;
    for (const node of cards()) {
      const box = node.getBoundingClientRect();
      const down = by * (box.top - from.top);
      if (down < from.height / 3) continue;
      const distance = down * 10000 + Math.abs(box.left - from.left);
      if (!best || distance < best[0]) best = [distance, node];
    }
    if (best) select(Number(best[1].dataset.n), true);
  };

  // ------------------------------------------------------------------ one example
  const detail = () => {
    const record = RECORDS[state.current];
    const made = decisions.get(record.key);
    $("detail").querySelector(".picture").replaceChildren(picture(record));
    const line = element("p", { className: "labels" });
    line.append("given ", element("b", { textContent: record.label || "–" }));
    if (record.suggested) line.append(", suggested ", element("b", { textContent: record.suggested }));
    $("detail").querySelector(".labels").replaceWith(line);
    const facts = [["decision", made ? made.decision + (made.label ? ` → ${made.label}` : "") : "none yet"], ["path", record.path],
      ["key", record.key], ["score", `${record.score.toFixed(4)}, rank ${record.rank.toLocaleString("en")}`],
      ["wrong with", record.probability === null ? "" : percent(record.probability)],
      ["issue", record.issue.replace("_", " ")], ["fold", record.fold < 0 ? "" : String(record.fold)], ["", record.detail]];
    $("detail").querySelector("dl").replaceChildren(...facts.filter(([, text]) => text).flatMap(([name, text]) =>
      [element("dt", { textContent: name }), element("dd", { textContent: text })]));
    $("newlabel").value = made?.label || record.suggested;
    $("newlabel").parentElement.hidden = !DATA.classes.length;
  };
  const open = () => { if (state.current !== null) { detail(); if (!$("detail").open) $("detail").showModal(); } };
  const act = (what) => {
    if (state.current === null) return;
    const record = RECORDS[state.current];
    const chosen = $("detail").open && DATA.classes.length ? $("newlabel").value : undefined;
    const before = decisions.size;
    decide(record, what, what === "relabel" ? chosen || undefined : undefined);
    if (what === "clear" || (decisions.size === before && !decisions.has(record.key))) { if ($("detail").open) detail(); return; }
    step(1);
    if ($("detail").open) detail();
  };

  // ------------------------------------------------------------------ summary
  const summarize = () => {
    const count = decisions.size;
    const kinds = ["keep", "relabel", "drop"].map((kind) =>
      [kind, [...decisions.values()].filter((made) => made.decision === kind).length]).filter(([, n]) => n);
    $("progress").textContent = `${count} decided`;
    $("progress").title = kinds.map(([kind, n]) => `${n} ${kind}`).join(", ");
    $("download").disabled = !count;
    $("undo").disabled = !history.length;
    const now = cut();
    $("bulk").hidden = $("cutrow").hidden = !now || !state.tab.issues.includes("label");
    if (!now) return;
    const text = $("estimate");
    const range = now.low === null ? "" : ` (${percent(now.low)}–${percent(now.high)})`;
    text.replaceChildren(element("b", { textContent: now.count.toLocaleString("en") }), ` examples score ${now.score.toFixed(3)} or more · `,
      element("b", { textContent: percent(now.precision) }), ` of them wrong${range}`);
    if (now.recall !== null) text.append(` · finds ${percent(now.recall)} of the wrong`);
  };
  const bulk = (what) => change(RECORDS.filter((record) => record.issue === "label" && matches(record) && above(record) &&
    !decisions.has(record.key) && (what === "drop" || record.suggested)).map((record) =>
      [record.key, { decision: what, label: what === "relabel" ? record.suggested : "" }]));

  // ------------------------------------------------------------------ CSV
  const quote = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const csv = () => {
    const rows = [DATA.columns];
    const written = new Set();
    for (const record of RECORDS) {
      const made = decisions.get(record.key);
      if (!made || written.has(record.key)) continue;
      written.add(record.key);
      rows.push([record.key, record.path, record.label, made.decision, made.label]);
    }
    return rows.map((row) => row.map(quote).join(",") + "\r\n").join("");
  };
  const parse = (text) => {
    const rows = [[""]];
    let quoted = false;
    for (let n = 0; n < text.length; n++) {
      const c = text[n];
      const row = rows[rows.length - 1];
      if (quoted) {
        if (c !== '"') row[row.length - 1] += c;
        else if (text[n + 1] === '"') { row[row.length - 1] += c; n++; } else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") row.push("");
      else if (c === "\n") rows.push([""]);
      else if (c !== "\r") row[row.length - 1] += c;
    }
    return rows.filter((row) => row.length > 1);
  };
  const load = async (file) => {
    const [head, ...rows] = parse(await file.text());
    if (!head || DATA.columns.some((name, n) => head[n] !== name)) return announce("This file holds no decisions.");
    const known = new Set(RECORDS.map((record) => record.key));
    change(rows.filter((row) => known.has(row[0]) && ["keep", "relabel", "drop"].includes(row[3])).map((row) =>
      [row[0], { decision: row[3], label: row[4] ?? "" }]));
    render();
  };

  // ------------------------------------------------------------------ controls
  const tabs = () => {
    $("tabs").replaceChildren(...TABS.map((tab) => {
      const node = element("button", { type: "button", textContent: tab.name });
      const total = tab.issues.reduce((sum, issue) => sum + (DATA.counts[issue] ?? 0), 0);
      node.append(element("small", { textContent: (total || RECORDS.filter((r) => tab.issues.includes(r.issue)).length).toLocaleString("en") }));
      node.setAttribute("role", "tab");
      node.setAttribute("aria-selected", String(tab === state.tab));
      node.addEventListener("click", () => { state.tab = tab; state.current = null; tabs(); fresh(); });
      return node;
    }));
  };
  const setPair = (pair) => {
    state.pair = pair;
    $("pair").hidden = !pair;
    $("pair").textContent = pair ? `${pair[0]} → ${pair[1]} ×` : "";
    for (const node of document.querySelectorAll("#confusion button")) {
      node.classList.toggle("on", !!pair && DATA.classes[node.dataset.given] === pair[0] && DATA.classes[node.dataset.suggested] === pair[1]);
    }
    fresh();
  };
  const toLabels = () => { state.tab = TABS.find((tab) => tab.name === "Labels") ?? state.tab; tabs(); $("tabs").scrollIntoView({ block: "nearest" }); };

  document.addEventListener("click", (event) => {
    const node = event.target.closest(".card, #confusion button, [data-class], [data-do]");
    if (!node) return;
    if (node.matches(".card")) select(Number(node.dataset.n), true);
    else if (node.dataset.do) act(node.dataset.do);
    else if (node.dataset.class) { toLabels(); $("search").value = DATA.classes[node.dataset.class]; search(); }
    else { toLabels(); setPair([DATA.classes[node.dataset.given], DATA.classes[node.dataset.suggested]]); }
  });
  document.addEventListener("dblclick", (event) => { if (event.target.closest(".card")) open(); });
  document.addEventListener("focusin", (event) => {
    const node = event.target.closest?.(".card");
    if (node && Number(node.dataset.n) !== state.current) select(Number(node.dataset.n));
  });
  const search = () => { state.query = $("search").value.trim().toLowerCase(); fresh(); };
  for (const event of ["input", "change"]) $("search").addEventListener(event, search);
  $("pair").addEventListener("click", () => setPair(null));
  $("status").addEventListener("change", (event) => { state.status = event.target.value; fresh(); });
  $("order").addEventListener("change", (event) => { state.order = event.target.value; fresh(); });
  $("hide").addEventListener("change", (event) => { state.hide = event.target.checked; fresh(); });
  $("cut").addEventListener("input", (event) => {
    state.cut = Number(event.target.value);
    if (state.hide) fresh(); else { cards().forEach(paint); summarize(); }
  });
  $("bulk-relabel").addEventListener("click", () => bulk("relabel"));
  $("bulk-drop").addEventListener("click", () => bulk("drop"));
  $("undo").addEventListener("click", () => { if (history.length) apply(history.pop()); if ($("detail").open) detail(); });
  $("newlabel").addEventListener("change", () => act("relabel"));
  $("load").addEventListener("change", (event) => { if (event.target.files[0]) load(event.target.files[0]); event.target.value = ""; });
  $("download").addEventListener("click", () => {
    const link = element("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "decisions.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark";
  });
  const MOVES = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => stepRow(1), ArrowUp: () => stepRow(-1) };
  const ACTIONS = { k: "keep", r: "relabel", d: "drop", u: "clear" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, select, textarea")) {
      if (event.key === "Escape" && event.target.id === "search") event.target.blur();
      return;
    }
    if (event.key === "/") { event.preventDefault(); $("search").focus(); return; }
    if (MOVES[event.key]) { event.preventDefault(); MOVES[event.key](); return; }
    if (event.key === "Enter" && event.target.closest(".card")) { event.preventDefault(); open(); return; }
    const action = ACTIONS[event.key.toLowerCase()];
    if (action) { event.preventDefault(); act(action); }
  });

  // ------------------------------------------------------------------ start
  RECORDS.forEach((record, n) => { record.n = n; });
  $("names").replaceChildren(...DATA.classes.map((name) => element("option", { value: name })));
  $("newlabel").replaceChildren(...DATA.classes.map((name) => element("option", { value: name, textContent: name })));
  $("cut").max = String(Math.max(0, DATA.cuts.length - 1));
  state.cut = DATA.start;
  $("cut").value = String(state.cut);
  if (!DATA.classes.length) { $("order").hidden = true; $("search").placeholder = "search by text"; }
  recall();
  if (TABS.length) { tabs(); render(); } else { document.querySelector(".tools").hidden = true; }
})();
