/*
 * Orphaned Pods in Airflow's UI: the page, the tabs on DAG, run, task and task instance, and the card on the home page.
 *
 * Airflow imports this module and renders what it finds at globalThis[name], with its own React. There is no build and
 * no dependency. Colours are Chakra's variables alone, so light and dark come by themselves. Texts reach the document
 * through React, which escapes them; nothing here writes HTML. Nothing here changes anything but what is shown.
 */

const React = globalThis.React;
const h = React?.createElement;
const API = new URL("../api/overview", import.meta.url);
const PAGE = "/plugin/orphaned-pods";
const POLL = 15_000;

// ---- Words ------------------------------------------------------------------------------------------------------

const REASONS = {
  orphaned: ["Task ended, Pod works on", "red"],
  superseded: ["A later try took over", "orange"],
  "run-deleted": ["Its run was deleted", "orange"],
  "task-removed": ["Its task was removed", "orange"],
  abandoned: ["Given up by its operator", "orange"],
  finished: ["Finished, not cleaned up", "gray"],
  kept: ["Finished, kept by its operator", "gray"],
  purged: ["Finished, its run is gone", "gray"],
};

const CAUSES = {
  "run-deleted": "the run was deleted first",
  purged: "its run is no longer recorded",
  "task-removed": "taken out of the DAG",
  "timeout-kept": "its operator timed out",
  "kept-by-policy": "on_finish_action keeps it",
  sidecar: "another container runs on",
  "not-reattached": "the retry made a new Pod",
  cleared: "the task was cleared",
  "run-cut-short": "the run ended first",
  "created-late": "made after the task ended",
  "marked-while-deferred": "marked while deferred",
  "marked-success": "marked as a success",
  "worker-lost": "its worker was lost",
  "not-cleaned-up": "no trace of a clean-up",
};

const NOTICES = {
  "stuck-pending": "Does not start",
  "stuck-terminating": "Does not end",
  "deferred-long": "Deferred for long",
  duplicate: "Several Pods at once",
  "uncertain-long": "Unclear for long",
  "retention-bounded": "Retention bounded",
  "pod-gone": "Pod has vanished",
};

/** Colours of the chart, in the order of REASONS: a reason looks the same on every page. */
const CHART = ["blue", "teal", "purple", "pink", "orange", "gray", "cyan", "yellow"];

const SCOPES = {
  all: "Pods of your tasks that nothing in Airflow needs any more. They hold CPU and memory until they are removed.",
  dag: "Pods that this DAG left behind in Kubernetes: nothing in Airflow needs them any more.",
  run: "Pods that this run left behind in Kubernetes: nothing in Airflow needs them any more.",
  task: "Pods that this task left behind in Kubernetes: nothing in Airflow needs them any more.",
  instance: "Pods that this task instance left behind in Kubernetes.",
};

const CLEAN = {
  all: "None of your tasks has left a Pod behind.",
  dag: "This DAG has left no Pod behind.",
  run: "This run has left no Pod behind.",
  task: "This task has left no Pod behind.",
  instance: "This task instance has left no Pod behind.",
};

const sentence = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("-", " ");
const reasonWords = (reason) => REASONS[reason]?.[0] ?? sentence(reason);
const reasonColour = (reason) => REASONS[reason]?.[1] ?? "gray";

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });
const plural = (count, one, many = `${one}s`, digits = 0) => `${number(count, digits)} ${count === 1 ? one : many}`;

function cores(value) {
  return plural(Number(value.toFixed(value < 0.1 ? 3 : value < 10 ? 2 : 1)), "core", "cores", 3);
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  const amount = value / 1024 ** power;
  return `${number(amount, amount < 10 ? 1 : 0)} ${units[power]}`;
}

function extended(name, amount) {
  return name.endsWith("/gpu") ? plural(amount, "GPU", "GPUs", 2) : `${number(amount, 2)} ${name}`;
}

/** What Pods hold, as a list of amounts; empty where they hold nothing. */
function amounts(holds) {
  if (!holds) return [];
  const parts = [];
  if (holds.cpu_cores > 0) parts.push(cores(holds.cpu_cores));
  if (holds.memory_bytes > 0) parts.push(bytes(holds.memory_bytes));
  for (const [name, amount] of Object.entries(holds.extended ?? {})) parts.push(extended(name, amount));
  return parts;
}

function Amounts({ holds }) {
  const parts = amounts(holds).map((part, index) =>
    h(React.Fragment, { key: part }, index > 0 && " · ", h("span", { className: "kpoh-nowrap" }, part)),
  );
  return parts.length > 0 ? parts : "–";
}

function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${number(Math.round(seconds / 86400))} days`;
}

/** The time zone that is set in Airflow's own menu. */
function timeZone() {
  try {
    const zone = JSON.parse(localStorage.getItem("timezone") ?? '"UTC"');
    new Intl.DateTimeFormat("en", { timeZone: zone });
    return zone;
  } catch {
    return "UTC";
  }
}

const moment = (text) =>
  new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short", timeZone: timeZone() });
const day = (text) => new Date(text).toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" });

// ---- What the server says ---------------------------------------------------------------------------------------

const FAILED = {
  401: "Your login has ended: log in to Airflow again.",
  403: "Your login has ended: log in to Airflow again.",
};

/** Answers by query, each asked for again while somebody looks at it; kept for the next mount, which shows at once. */
class Answers {
  #entries = new Map();

  get(query) {
    return this.#entries.get(query)?.answer;
  }

  subscribe(query, listener) {
    const entry = this.#entry(query);
    entry.listeners.add(listener);
    if (entry.listeners.size === 1) this.#start(query, entry);
    return () => {
      entry.listeners.delete(listener);
      if (entry.listeners.size === 0) clearInterval(entry.timer);
    };
  }

  /** Asks for everything that is looked at: somebody has come back to this tab of the browser. */
  refresh() {
    for (const [query, entry] of this.#entries) if (entry.listeners.size > 0) this.#ask(query, entry);
  }

  #entry(query) {
    if (!this.#entries.has(query)) {
      this.#forget();
      this.#entries.set(query, { listeners: new Set() });
    }
    return this.#entries.get(query);
  }

  #forget() {
    for (const [query, entry] of this.#entries) {
      if (this.#entries.size < 20) return;
      if (entry.listeners.size === 0) this.#entries.delete(query);
    }
  }

  #start(query, entry) {
    this.#ask(query, entry);
    entry.timer = setInterval(() => document.hidden || this.#ask(query, entry), POLL);
  }

  async #ask(query, entry) {
    if (entry.asking) return;
    entry.asking = true;
    entry.answer = await ask(query);
    entry.asking = false;
    for (const listener of entry.listeners) listener();
  }
}

async function ask(query) {
  try {
    const response = await fetch(`${API}?${query}`, { credentials: "same-origin" });
    if (!response.ok) return { problem: FAILED[response.status] ?? `Airflow answers with HTTP ${response.status}.` };
    const answer = await response.json();
    return { ...answer, skew: new Date(answer.now) - Date.now() };
  } catch {
    return { problem: "Airflow can't be reached." };
  }
}

const answers = new Answers();

function useAnswer(query) {
  const subscribe = React.useCallback((listener) => answers.subscribe(query, listener), [query]);
  const answer = React.useSyncExternalStore(subscribe, () => answers.get(query));
  const last = React.useRef(undefined);
  if (answer !== undefined) last.current = answer;
  return last.current; // while another filter's answer is under way, the last one stays
}

const ticking = new Set();
let ticker;

function tick(listener) {
  ticking.add(listener);
  ticker ??= setInterval(() => ticking.forEach((each) => each()), 1000);
  return () => ticking.delete(listener);
}

/** A text that depends on the time; only what changes is rendered again. `write` gets the healer's time. */
function Ticking({ skew, write }) {
  return React.useSyncExternalStore(tick, () => write(Date.now() + skew));
}

// ---- Small parts ------------------------------------------------------------------------------------------------

function Chip({ colour, title, children }) {
  return h("span", { className: `kpoh-chip kpoh-${colour}`, title }, children);
}

function Link({ to, children, ...rest }) {
  const Router = globalThis.ReactRouterDOM?.Link;
  if (Router) return h(Router, { to, className: "kpoh-link", ...rest }, children);
  const href = new URL(to.replace(/^\//, ""), document.baseURI).href;
  return h("a", { href, className: "kpoh-link", ...rest }, children);
}

/** An id: never broken by its direction of writing, cut after two lines, whole when pointed at. */
function Id({ children, code }) {
  return h("bdi", { className: code ? "kpoh-id kpoh-code" : "kpoh-id", title: children }, children);
}

function Section({ title, count, children }) {
  const id = React.useId();
  const heading = h("h2", { id, className: "kpoh-heading" }, title, count != null && h("small", null, ` ${count}`));
  return h("section", { "aria-labelledby": id }, heading, children);
}

function Callout({ colour, children }) {
  return h("div", { className: `kpoh-callout kpoh-${colour}`, role: "status" }, children);
}

function dagPath(id) {
  return `/dags/${encodeURIComponent(id)}`;
}

function taskPath(task) {
  const [run, id] = [task.run_id, task.task_id].map(encodeURIComponent);
  const path = `${dagPath(task.dag_id)}/runs/${run}/tasks/${id}`;
  return task.map_index >= 0 ? `${path}/mapped/${task.map_index}` : path;
}

/** Whose Pod it is: the task instance as a link where Airflow has it, else what the Pod's labels say. */
function Whose({ row, scope }) {
  const { task, labels, dag_id: dag } = row;
  const id = task?.task_id ?? labels.task_id ?? "unknown task";
  const name = task?.map_index >= 0 ? `${id} [${task.map_index}]` : id;
  const texts = { instance: task?.run_id ?? labels.run_id, all: `${dag ?? labels.dag_id ?? "unknown DAG"} › ${name}` };
  const text = texts[scope] ?? name;
  const to = task ? taskPath(task) : dag ? dagPath(dag) : null;
  return h(
    React.Fragment,
    null,
    to ? h(Link, { to }, h(Id, null, text)) : h(Id, null, text),
    h(Run, { row, scope }),
  );
}

function Run({ row: { task, labels, try: attempt }, scope }) {
  const run = scope === "run" || scope === "instance" ? null : (task?.run_id ?? labels.run_id);
  return h(
    "div",
    { className: "kpoh-muted" },
    run && h(Id, null, run),
    attempt && h("span", { className: "kpoh-nowrap" }, `${run ? " · " : ""}try ${attempt}`),
  );
}

// ---- What happens -----------------------------------------------------------------------------------------------

const FATES = { paused: ["Paused", "orange"], reported: ["Only reported", "gray"] };

function countdown(due, now) {
  if (!due) return "Deleted soon";
  return `Deleted ${soon(new Date(due), now)}`;
}

function Fate({ row, skew }) {
  if (row.deleted) {
    const text = h(Ticking, { skew, write: (now) => ago(row.deleted, now) });
    return h(Chip, { colour: "green", title: moment(row.deleted) }, text);
  }
  const [words, colour] = FATES[row.fate] ?? [null, "blue"];
  return h(Chip, { colour }, words ?? h(Ticking, { skew, write: (now) => countdown(row.due, now) }));
}

function ago(text, now) {
  return `${duration(now - new Date(text))} ago`;
}

const NEXT = {
  breaker: "Nothing for now: deletions are paused until somebody who runs kpo-healer has looked.",
  ownership: "Nothing: it is not certain that the Pod is of this Airflow, so it is only reported.",
  rate: "Deleted as soon as the limit on deletions allows it.",
  "not-leader": "Deleted as soon as another replica of kpo-healer has taken over.",
};

function next(row, now) {
  if (NEXT[row.withheld]) return NEXT[row.withheld];
  if (row.withheld === "report-mode") return "Nothing: kpo-healer is in report mode, so it deletes no Pods.";
  if (row.fate === "reported") return "Nothing: such Pods are only reported here. It stays until somebody deletes it.";
  const when = row.due ? ` (${moment(row.due)})` : "";
  return `${countdown(row.due, now)}${when}, unless something in Airflow needs it by then.`;
}

// ---- Tables -----------------------------------------------------------------------------------------------------

function Details({ row, skew }) {
  const entries = [
    ["What happened", row.cause?.detail],
    ["So it does not come back", row.cause?.remedy],
    ["Proof", row.detail],
    row.deleted
      ? ["Deleted", moment(row.deleted)]
      : ["What happens next", h(Ticking, { skew, write: (now) => next(row, now) })],
    ...row.notices.map((notice) => [NOTICES[notice.name] ?? sentence(notice.name), notice.detail]),
    ["Pod", h(Id, { code: true }, `${row.namespace}/${row.pod}`)],
  ];
  const shown = entries.filter(([, value]) => value);
  return h(
    "dl",
    { className: "kpoh-details" },
    shown.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value))),
  );
}

function Toggle({ isOpen, controls, label, onClick }) {
  const icon = h("svg", { viewBox: "0 0 10 10", "aria-hidden": true }, h("path", { d: "M3 1l4 4-4 4" }));
  const aria = { "aria-expanded": isOpen, "aria-controls": controls, "aria-label": label };
  return h("button", { type: "button", className: "kpoh-toggle", onClick, ...aria }, icon);
}

const Row = React?.memo(function Row({ row, scope, skew, opened }) {
  const [isOpen, setOpen] = React.useState(opened);
  const id = React.useId();
  const toggle = (event) => {
    if (!event.target.closest("a") && !String(getSelection())) setOpen(!isOpen);
  };
  const label = `Details of Pod ${row.pod}`;
  const button = h(Toggle, { isOpen, controls: id, label, onClick: () => setOpen(!isOpen) });
  const cells = [
    h("td", { key: "toggle", onClick: (event) => event.stopPropagation() }, button),
    h("td", { key: "whose", className: "kpoh-wide" }, h(Whose, { row, scope })),
    h(
      "td",
      { key: "why" },
      h(Chip, { colour: reasonColour(row.reason) }, reasonWords(row.reason)),
      row.cause && h("div", { className: "kpoh-muted" }, CAUSES[row.cause.name] ?? sentence(row.cause.name)),
    ),
    h("td", { key: "fate" }, h(Fate, { row, skew })),
    h("td", { key: "holds", className: "kpoh-right" }, h(Amounts, { holds: row.holds })),
    h("td", { key: "for", className: "kpoh-right kpoh-nowrap" }, h(Age, { row, skew })),
    h("td", { key: "pod" }, h(Id, { code: true }, row.pod)),
  ];
  const cell = h("td", { colSpan: 6 }, isOpen && h(Details, { row, skew }));
  const details = h("tr", { id, hidden: !isOpen, className: "kpoh-opened" }, h("td"), cell);
  return h(React.Fragment, null, h("tr", { className: "kpoh-row", onClick: toggle }, cells), details);
});

function Age({ row, skew }) {
  if (!row.begun) return "–";
  const begun = new Date(row.begun);
  if (row.deleted) return duration(new Date(row.deleted) - begun);
  return h(Ticking, { skew, write: (now) => duration(now - begun) });
}

function Table({ label, columns, rows, scope, skew }) {
  const head = [
    h("th", { key: "", scope: "col" }, h("span", { className: "kpoh-hidden" }, "Details")),
    ...columns.map(([name, side]) => h("th", { key: name, scope: "col", className: side && "kpoh-right" }, name)),
  ];
  const opened = scope === "instance";
  const body = rows.map((row) => h(Row, { key: row.uid, row, scope, skew, opened }));
  const table = h("table", { "aria-label": label }, h("thead", null, h("tr", null, head)), h("tbody", null, body));
  // To be reached by key, so that it can be scrolled by key.
  return h("div", { className: "kpoh-frame", tabIndex: 0, role: "group", "aria-label": label }, table);
}

function columns(scope, fate, holds, age) {
  const whose = scope === "instance" ? "Run" : scope === "all" ? "Task instance" : "Task";
  return [[whose], ["Why"], [fate], [holds, true], [age, true], ["Pod"]];
}

function Now({ answer, scope, filter, setFilter }) {
  const { totals, matching, findings, reasons, skew } = answer;
  const isNarrowed = Boolean(filter.q || filter.reason);
  const count = isNarrowed ? `${number(matching)} of ${number(totals.pods)}` : null;
  const empty = totals.pods > 0 ? "No Pod fits this filter." : CLEAN[scope];
  const table = { label: "Orphaned now", columns: columns(scope, "What happens", "Holds", "For"), rows: findings };
  return h(
    Section,
    { title: scope === "instance" ? "Now" : "Orphaned now", count },
    scope !== "instance" && totals.pods > 0 && h(Filters, { filter, setFilter, reasons }),
    matching > 0 ? h(Table, { ...table, scope, skew }) : h("p", { className: "kpoh-empty" }, empty),
    h(More, { shown: findings.length, total: matching }, "The figures above are of all; a filter finds the others."),
    h("div", { className: "kpoh-hidden", "aria-live": "polite" }, isNarrowed ? `${plural(matching, "Pod")} found` : ""),
  );
}

/** Says that a table does not show all. */
function More({ shown, total, children }) {
  if (shown >= total) return null;
  return h(Note, null, `${number(shown)} of ${number(total)} shown. `, children);
}

function Note({ children }) {
  return h("p", { className: "kpoh-muted kpoh-note" }, children);
}

function Filters({ filter, setFilter, reasons }) {
  const [text, setText] = React.useState(filter.q);
  React.useEffect(() => {
    const timer = setTimeout(() => setFilter((old) => (old.q === text ? old : { ...old, q: text })), 250);
    return () => clearTimeout(timer);
  }, [text]);
  const names = Object.keys(reasons).sort(byTable);
  const options = names.map((reason) =>
    h("option", { key: reason, value: reason }, `${reasonWords(reason)} (${number(reasons[reason])})`),
  );
  return h(
    "div",
    { className: "kpoh-filters" },
    h("input", {
      type: "search",
      "aria-label": "Filter by DAG, task, run or Pod",
      placeholder: "DAG, task, run or Pod",
      maxLength: 250,
      value: text,
      onChange: (event) => setText(event.target.value),
    }),
    h(
      "select",
      {
        "aria-label": "Filter by reason",
        value: filter.reason,
        onChange: (event) => setFilter((old) => ({ ...old, reason: event.target.value })),
      },
      h("option", { value: "" }, "All reasons"),
      options,
    ),
  );
}

function Notices({ answer, scope }) {
  const { notices, notices_total: total } = answer;
  if (notices.length === 0) return null;
  const items = notices.map((notice) =>
    h(
      "li",
      { key: `${notice.uid}${notice.notice}${notice.pod}` },
      h("div", null, h(Whose, { row: notice, scope })),
      h("div", null, h(Chip, { colour: "orange" }, NOTICES[notice.notice] ?? sentence(notice.notice))),
      h("div", { className: "kpoh-text" }, notice.detail),
      h("div", null, h(Id, { code: true }, notice.pod)),
    ),
  );
  const list = h("ul", { className: "kpoh-frame kpoh-notices" }, items);
  return h(Section, { title: "Also worth a look" }, list, h(More, { shown: notices.length, total }));
}

// ---- What was healed --------------------------------------------------------------------------------------------

function Healed({ answer, scope }) {
  const { history, skew } = answer;
  if (!history || (scope === "instance" && history.total === 0)) return null;
  const { entries, total } = history;
  const table = { label: "Healed", columns: columns(scope, "Healed", "Freed", "Held for"), rows: entries };
  return h(
    Section,
    { title: "Healed in the last 14 days" },
    scope !== "instance" && h(Chart, { history }),
    history.complete_since && h(Since, { since: history.complete_since, days: history.days }),
    entries.length > 0 && h(Table, { ...table, scope, skew }),
    h(More, { shown: entries.length, total }),
  );
}

/** Says from when on the healer remembers, where that is less than the chart's days. */
function Since({ since, days }) {
  if (new Date(since) < new Date(days[0].day)) return null;
  return h(Note, null, `kpo-healer remembers what it has deleted since ${moment(since)}.`);
}

function Chart({ history: { days } }) {
  const most = Math.max(1, ...days.map(total));
  const names = [...new Set(days.flatMap(({ reasons }) => Object.keys(reasons)))].sort(byTable);
  const bars = days.map((each) => h(Day, { key: each.day, each, most, names }));
  const legend = names.map((name) => h("span", { key: name }, h("i", { style: paint(name) }), reasonWords(name)));
  const below =
    names.length > 0
      ? h("div", { className: "kpoh-legend", "aria-hidden": true }, legend)
      : h("p", { className: "kpoh-muted" }, "Nothing was deleted in these days.");
  return h("div", { className: "kpoh-frame kpoh-chart" }, h("ol", { "aria-label": "Healed Pods by day" }, bars), below);
}

function Day({ each, most, names }) {
  const { reasons } = each;
  const parts = names.filter((name) => reasons[name]);
  const words = parts.map((name) => `${number(reasons[name])} ${reasonWords(name)}`).join(", ") || "nothing";
  const segments = parts.map((name) => h("i", { key: name, style: { ...paint(name), flexGrow: reasons[name] } }));
  const style = { height: `${(total(each) / most) * 6}rem` };
  return h(
    "li",
    { title: `${day(each.day)}: ${words}` },
    h("span", { className: "kpoh-hidden" }, `${day(each.day)}: ${words}`),
    h("b", { "aria-hidden": true }, total(each) > 0 ? number(total(each)) : ""),
    h("div", { "aria-hidden": true, className: "kpoh-bar", style }, segments),
    h("span", { "aria-hidden": true, className: "kpoh-muted" }, day(each.day)),
  );
}

function total({ reasons }) {
  return Object.values(reasons).reduce((sum, count) => sum + count, 0);
}

function paint(reason) {
  const colour = CHART[Object.keys(REASONS).indexOf(reason)] ?? "red";
  return { background: `var(--chakra-colors-${colour}-solid)` };
}

function byTable(one, other) {
  const order = Object.keys(REASONS);
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return place(one) - place(other) || one.localeCompare(other);
}

// ---- Tiles ------------------------------------------------------------------------------------------------------

function Tile({ name, value, note }) {
  const values = h("dd", null, h("strong", null, value), h("span", null, note || "\u00a0"));
  return h("div", { className: "kpoh-tile" }, h("dt", null, name), values);
}

function Tiles({ answer }) {
  const { totals, history, mode, skew } = answer;
  const [first = "nothing", ...rest] = amounts(totals);
  const look = totals.reported + totals.paused + totals.notices;
  const when = (moment, write) => moment && h(Ticking, { skew, write: (now) => write(new Date(moment), now) });
  const oldest = when(totals.oldest, (begun, now) => `oldest for ${duration(now - begun)}`);
  const next = when(totals.next_due, (due, now) => `next ${soon(due, now)}`);
  const tiles = [
    { name: "Orphaned now", value: number(totals.pods), note: oldest },
    { name: "They hold", value: first, note: rest.join(" · ") },
    { name: "Deleted soon", value: number(totals.soon), note: mode === "report" ? "report mode deletes nothing" : next },
    { name: "Need a look", value: number(look), note: look > 0 && "only reported, paused or stuck" },
  ];
  if (history) {
    tiles.push({ name: "Healed in 7 days", value: number(history.week), note: idle(history.week_core_hours) });
  }
  return h("dl", { className: "kpoh-tiles" }, tiles.map((tile) => h(Tile, { key: tile.name, ...tile })));
}

function idle(hours) {
  return hours >= 0.05 && `${plural(Number(hours.toFixed(1)), "core-hour", "core-hours", 1)} idle until then`;
}

function soon(due, now) {
  const left = due - now;
  return left > 0 ? `in ${duration(left)}` : "in a moment";
}

// ---- The page, the tabs, the card -------------------------------------------------------------------------------

function Looked({ answer }) {
  if (!answer?.looked) return null;
  const { looked, skew } = answer;
  const isLate = Date.now() + skew - new Date(looked) > 10 * 60_000;
  return h(
    "div",
    { className: "kpoh-looked kpoh-muted" },
    answer.mode === "report" && h(Chip, { colour: "gray", title: "It deletes no Pods" }, "Report mode"),
    isLate && h(Chip, { colour: "orange", title: "No pass has ended for 10 minutes or more" }, "Out of date"),
    h("i", { className: isLate ? "kpoh-dot kpoh-late" : "kpoh-dot", "aria-hidden": true }),
    h("span", null, "kpo-healer looked ", h(Ticking, { skew, write: (now) => ago(looked, now) })),
  );
}

function scopeOf({ dagId, runId, taskId }) {
  if (taskId) return runId ? "instance" : "task";
  return runId ? "run" : dagId ? "dag" : "all";
}

function queryOf({ dagId, runId, taskId, mapIndex }, filter) {
  const query = new URLSearchParams({ tz: timeZone() });
  if (dagId) query.set("dag_id", dagId);
  if (runId) query.set("run_id", runId);
  if (taskId) query.set("task_id", taskId);
  if (mapIndex !== undefined && Number(mapIndex) >= 0) query.set("map_index", mapIndex);
  if (filter.q) query.set("q", filter.q);
  if (filter.reason) query.set("reason", filter.reason);
  return query.toString();
}

function Content({ answer, scope, filter, setFilter }) {
  if (!answer) return h("p", { className: "kpoh-muted", role: "status" }, "Loading…");
  if (answer.problem) return h(Callout, { colour: answer.configured === false ? "blue" : "orange" }, answer.problem);
  return h(
    React.Fragment,
    null,
    answer.trouble && h(Callout, { colour: "orange" }, answer.trouble),
    answer.incomplete && h(Callout, { colour: "gray" }, answer.incomplete),
    scope !== "instance" && h(Tiles, { answer }),
    h(Now, { answer, scope, filter, setFilter }),
    h(Notices, { answer, scope }),
    h(Healed, { answer, scope }),
  );
}

function Orphans(props) {
  const [filter, setFilter] = React.useState({ q: "", reason: "" });
  const answer = useAnswer(queryOf(props, filter));
  const scope = scopeOf(props);
  const title = scope === "all" && h("h1", { className: "kpoh-title" }, "Orphaned Pods");
  return h(
    "main",
    { className: `kpoh kpoh-scope-${scope}` },
    h("header", null, h("div", null, title, h("p", { className: "kpoh-lead" }, SCOPES[scope])), h(Looked, { answer })),
    h(Content, { answer, scope, filter, setFilter }),
  );
}

function Card() {
  const totals = useAnswer("rows=0")?.totals;
  if (!totals?.pods) return null;
  const [pods, hold] = totals.pods === 1 ? ["Pod", "holds"] : ["Pods", "hold"];
  const held = amounts(totals).join(", ");
  const words = `orphaned ${pods} of ${plural(totals.dags, "DAG")}${held && ` ${hold} ${held}`}`;
  return h(
    "section",
    { className: "kpoh kpoh-card", "aria-label": "Orphaned Pods" },
    h(Chip, { colour: "orange" }, number(totals.pods)),
    h("span", null, words),
    h(Link, { to: PAGE, "aria-label": "Show orphaned Pods" }, "Show"),
  );
}

// ---- How it looks -----------------------------------------------------------------------------------------------

const tinted = ["red", "orange", "blue", "green", "gray"]
  .map((name) => [name, `var(--chakra-colors-${name}-${name === "gray" ? "muted" : "subtle"})`])
  .map(([name, ground]) => `.kpoh-${name} { background: ${ground}; color: var(--chakra-colors-${name}-fg); }`)
  .join("\n");

const CSS = `
.kpoh { color: var(--chakra-colors-fg); font-size: 0.875rem; line-height: 1.45; padding: 0.75rem; width: 100%; overflow-y: auto; }
.kpoh header { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline; flex-wrap: wrap; margin-bottom: 1rem; }
.kpoh-title { font-size: 1.25rem; font-weight: 600; margin-bottom: 0.25rem; }
.kpoh-lead, .kpoh-muted { color: var(--chakra-colors-fg-muted); }
.kpoh-muted { font-size: 0.8125rem; }
.kpoh-heading { font-weight: 600; font-size: 0.9375rem; margin: 1.75rem 0 0.75rem; }
.kpoh-heading small { color: var(--chakra-colors-fg-muted); font-weight: 400; margin-left: 0.5em; }
.kpoh-looked { display: flex; align-items: center; gap: 0.5rem; white-space: nowrap; }
.kpoh-dot { width: 0.5rem; height: 0.5rem; border-radius: 50%; background: var(--chakra-colors-green-solid); }
.kpoh-late { background: var(--chakra-colors-orange-solid); }
.kpoh-tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 0.75rem; margin: 0; }
.kpoh-tile, .kpoh-frame, .kpoh-card { border: 1px solid var(--chakra-colors-border); border-radius: 0.5rem; }
.kpoh-tile { padding: 0.875rem; min-width: 0; }
.kpoh-tile dt { color: var(--chakra-colors-fg-muted); font-size: 0.8125rem; }
.kpoh-tile dd { margin: 0; }
.kpoh-tile strong { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.kpoh-tile span { color: var(--chakra-colors-fg-muted); font-size: 0.8125rem; overflow-wrap: anywhere; }
.kpoh-filters { display: flex; gap: 0.5rem; margin-bottom: 0.625rem; flex-wrap: wrap; }
.kpoh-filters > * { height: 2.125rem; padding: 0 0.625rem; border: 1px solid var(--chakra-colors-border); border-radius: 0.375rem; background: transparent; color: inherit; font: inherit; }
.kpoh-filters input { width: 17.5rem; max-width: 100%; }
.kpoh-filters input::placeholder { color: var(--chakra-colors-fg-muted); }
.kpoh-filters option { background: var(--chakra-colors-bg); color: var(--chakra-colors-fg); }
.kpoh :focus-visible, .kpoh-frame:focus-visible { outline: 2px solid var(--chakra-colors-blue-focus-ring); outline-offset: 1px; }
.kpoh-frame { overflow-x: auto; container-type: inline-size; }
.kpoh table { width: 100%; border-collapse: collapse; }
.kpoh th { text-align: left; font-weight: 600; font-size: 0.8125rem; padding: 0.625rem 0.75rem; white-space: nowrap; }
.kpoh td { padding: 0.625rem 0.75rem; vertical-align: top; }
.kpoh tbody tr { border-top: 1px solid var(--chakra-colors-border); }
.kpoh tbody tr.kpoh-opened { border-top: 0; background: var(--chakra-colors-bg-muted); }
.kpoh tr[hidden] { display: none; }
.kpoh-row { cursor: pointer; }
.kpoh-row:hover { background: var(--chakra-colors-bg-subtle); }
.kpoh td:first-child, .kpoh th:first-child { width: 2.5rem; padding-right: 0; }
.kpoh .kpoh-right { text-align: right; font-variant-numeric: tabular-nums; }
.kpoh-nowrap, .kpoh-chip { white-space: nowrap; }
.kpoh-wide { min-width: 14rem; }
.kpoh-id { overflow-wrap: anywhere; display: -webkit-inline-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; vertical-align: bottom; }
.kpoh-details .kpoh-id { display: inline; }
.kpoh td:last-child .kpoh-code { min-width: 8.5rem; }
.kpoh-code { font-family: var(--chakra-fonts-mono, monospace); font-size: 0.8125rem; }
.kpoh-link { color: var(--chakra-colors-fg-info); }
.kpoh-link:hover { text-decoration: underline; }
.kpoh-chip { display: inline-block; border-radius: 0.25rem; padding: 0 0.4375rem; font-size: 0.75rem; line-height: 1.25rem; font-weight: 500; max-width: 17rem; overflow: hidden; text-overflow: ellipsis; vertical-align: bottom; unicode-bidi: isolate; }
.kpoh-toggle { width: 1.375rem; height: 1.375rem; border-radius: 0.25rem; display: grid; place-items: center; cursor: pointer; }
.kpoh-toggle:hover { background: var(--chakra-colors-bg-emphasized); }
.kpoh-toggle svg { width: 0.625rem; fill: none; stroke: currentColor; stroke-width: 1.5; transition: transform 0.12s; }
.kpoh-toggle[aria-expanded="true"] svg { transform: rotate(90deg); }
.kpoh-details { margin: 0; display: grid; gap: 0.375rem; position: sticky; left: 2.875rem; max-width: calc(100cqw - 3.875rem); }
.kpoh-details > div { display: grid; grid-template-columns: 10.5rem minmax(0, 1fr); gap: 0.5rem; }
.kpoh-details dt { color: var(--chakra-colors-fg-muted); }
.kpoh-details dd, .kpoh-text { margin: 0; overflow-wrap: anywhere; white-space: pre-line; unicode-bidi: isolate; max-width: 60rem; }
.kpoh-notices { list-style: none; margin: 0; padding: 0; }
.kpoh-notices li { display: grid; grid-template-columns: minmax(12rem, 2fr) 10rem minmax(14rem, 4fr) minmax(8rem, 1.5fr); gap: 0.75rem; padding: 0.625rem 0.75rem; }
.kpoh-notices .kpoh-chip { max-width: 100%; }
.kpoh-notices li + li { border-top: 1px solid var(--chakra-colors-border); }
.kpoh-chart { padding: 0.875rem; margin-bottom: 0.75rem; }
.kpoh-chart ol { display: flex; gap: 0.5rem; list-style: none; margin: 0; padding: 0; align-items: flex-end; min-width: 40rem; }
.kpoh-chart li { flex: 1; text-align: center; display: flex; flex-direction: column; align-items: center; min-width: 0; position: relative; }
.kpoh-chart b { font-size: 0.75rem; font-weight: 400; color: var(--chakra-colors-fg-muted); }
.kpoh-bar { width: 70%; max-width: 2.75rem; display: flex; flex-direction: column; border-radius: 0.1875rem 0.1875rem 0 0; overflow: hidden; }
.kpoh-bar i { flex-basis: 0; }
.kpoh-chart li > .kpoh-muted { border-top: 1px solid var(--chakra-colors-border); width: calc(100% + 0.5rem); padding-top: 0.25rem; font-size: 0.75rem; white-space: nowrap; }
.kpoh-legend { display: flex; gap: 1rem; flex-wrap: wrap; margin-top: 0.75rem; font-size: 0.8125rem; color: var(--chakra-colors-fg-muted); }
.kpoh-legend i { display: inline-block; width: 0.5625rem; height: 0.5625rem; border-radius: 0.125rem; margin-right: 0.375rem; }
.kpoh-callout { border-radius: 0.5rem; padding: 0.625rem 0.875rem; margin-bottom: 0.75rem; overflow-wrap: anywhere; }
.kpoh-empty { border: 1px dashed var(--chakra-colors-border); border-radius: 0.5rem; padding: 1.25rem; text-align: center; color: var(--chakra-colors-fg-muted); }
.kpoh-note { margin: 0.5rem 0; }
.kpoh-card { display: flex; gap: 0.625rem; align-items: center; padding: 0.625rem 0.875rem; overflow: visible; }
.kpoh-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
${tinted}
@media (prefers-reduced-motion: reduce) { .kpoh-toggle svg { transition: none; } }
@container (max-width: 42rem) { .kpoh-notices li, .kpoh-details > div { grid-template-columns: minmax(0, 1fr); } }
`;

function style() {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(CSS);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}

// Without React there is nothing to show it with: Airflow says so itself.
if (React) {
  style();
  document.addEventListener("visibilitychange", () => document.hidden || answers.refresh());
  globalThis["Orphaned Pods"] = Orphans;
  globalThis["Orphaned Pods card"] = Card;
  globalThis["Pods"] = Orphans;
}
