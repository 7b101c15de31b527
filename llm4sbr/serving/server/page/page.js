"use strict";

// Titles are data of whoever made the catalogue: they are set as text, never as HTML.

const WAIT = 150; // milliseconds without a key before a search begins
const CHOICES = 6; // attributes that get a field each
const LONG = 300; // characters of a title that are shown

const part = (id) => document.getElementById(id);
const session = [];
const where = new Map(); // field -> condition
let model = "";
let before = new Set();
let asked = 0;
let searched = 0;

function say(text, wrong = false) {
  part("status").textContent = text;
  part("status").classList.toggle("error", wrong);
}

async function ask(path, body) {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, body ? post : {});
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

function made(name, text = "", settings = {}) {
  const element = Object.assign(document.createElement(name), settings);
  if (text) element.textContent = text;
  return element;
}

const short = (text) => (text.length > LONG ? `${text.slice(0, LONG)} ...` : text);

// What tells an item apart from others of the same title: its key, and what is known of it.
const facts = (item) => [item.key, ...Object.values(item.attributes || {})].map((one) => short(String(one))).join(" · ");

function entry(item, press, { score, isNew, label } = {}) {
  const button = made("button", "", { type: "button" });
  button.append(made("span", short(item.title), { className: "title" }));
  if (label) button.setAttribute("aria-label", label);
  if (isNew) button.classList.add("new");
  if (score !== undefined) button.append(made("span", score.toFixed(2), { className: "score" }));
  if (label) button.append(made("span", "×", { className: "score" }));
  button.append(made("span", facts(item), { className: "facts" }));
  button.addEventListener("click", press);
  const line = made("li");
  line.append(button);
  return line;
}

function add(item) {
  session.push(item);
  refresh();
}

function showSession() {
  part("session").replaceChildren(...session.map((item, place) => entry(item, () => {
    session.splice(place, 1);
    refresh();
  }, { label: `Take out ${item.title} (${item.key})` })));
  part("session").scrollLeft = part("session").scrollWidth; // a row on phones: the last click is in view
  part("empty").hidden = session.length > 0;
  part("acts").hidden = session.length === 0;
}

const SOURCES = {
  cache: "What the LLM said about this session.",
  items: "What the LLM said about the last item.",
  nearest: "What the LLM said about the most similar known session.",
  predictor: "Predicted by the model itself from the clicks.",
  none: "None are known for this session; the model goes by the clicks alone.",
};

function paragraph(text, strong = "") {
  const line = made("p");
  if (strong) line.append(made("strong", `${strong}: `));
  line.append(text);
  return line;
}

function showIntents(intents) {
  if (!intents) {
    part("intents").replaceChildren(paragraph("This model takes none."));
    return;
  }
  const lines = [paragraph(SOURCES[intents.source] || intents.source)];
  if (intents.source === "nearest") lines.push(paragraph(intents.session.join(" · "), "Known session"));
  for (const intent of intents.perspectives) {
    const items = intent.items.map((item) => `${item.title} (${item.weight.toFixed(2)})`).join(" · ");
    lines.push(paragraph([intent.answer && `“${intent.answer}”`, items].filter(Boolean).join(" → "), intent.perspective));
  }
  part("intents").replaceChildren(...lines);
}

function showList(found) {
  const { items } = found;
  const marked = before.size > 0 && items.some((item) => !before.has(item.id));
  part("list").replaceChildren(...items.map((item) => entry(item, () => add(item), {
    score: item.score, isNew: marked && !before.has(item.id),
  })));
  part("legend").hidden = !marked;
  const passing = found.passing === null ? "" : ` ${found.passing} items pass the filters.`;
  const unknown = found.left_out.map((text) => `${text} is unknown and left out.`);
  const count = items.length === 1 ? "1 recommendation." : `${items.length} recommendations.`;
  say([`${count}${passing}`, ...unknown, ...found.notes].join(" "));
  before = new Set(items.map((item) => item.id));
}

// The link holds keys, since ids change with the model.
function remember() {
  const held = new URLSearchParams();
  if (model) held.set("model", model);
  for (const item of session) held.append("item", item.key);
  for (const [field, condition] of where) held.append("where", `${field}\n${condition}`);
  const link = `#${held}`;
  part("link").href = link;
  history.replaceState(null, "", session.length || where.size || model ? link : location.pathname);
}

async function refresh() {
  showSession();
  remember();
  const turn = ++asked;
  if (!session.length) {
    before = new Set();
    part("list").replaceChildren();
    part("legend").hidden = true;
    part("intents").replaceChildren(paragraph("Appear with the first item."));
    say("");
    return;
  }
  try {
    const body = { session: session.map((item) => item.key), explain: true, attributes: true };
    if (where.size) body.where = [...where.values()];
    if (model) body.model = model;
    const found = await ask("recommend", body);
    if (turn !== asked) return; // a later click has been answered, or will be
    for (const one of found.session) { // titles of what came with the link
      for (const item of session) if (item.key === one.text) item.title = one.title;
    }
    showSession();
    showModel(found);
    showIntents(found.intents);
    showList(found);
  } catch (error) {
    if (turn === asked) say(error.message, true);
  }
}

function showModel({ model_name: name, version, variant, engine }) {
  const told = [`Model ${name}`, version && `version ${version}`, variant, engine].filter(Boolean).join(", ");
  part("model").lastChild?.remove();
  part("model").append(made("span", told));
}

async function search() {
  const turn = ++searched;
  const text = part("find").value.trim();
  try {
    const named = model ? `&model=${encodeURIComponent(model)}` : "";
    const found = await ask(`items?search=${encodeURIComponent(text)}${named}`);
    if (turn !== searched) return;
    part("found").replaceChildren(...found.items.map((item) => entry(item, () => add(item))));
    const alike = found.items.some((item) => item.by === "spelling");
    const said = found.items.length ? (alike ? "Nothing is called so; this is spelt alike:" : "")
      : `Nothing found for “${text}”: no key, title or attribute has it.`;
    part("nothing").textContent = said;
    part("nothing").hidden = !said;
  } catch (error) {
    if (turn === searched) say(error.message, true);
  }
}

// Filters

const quoted = (text) => `"${String(text).replace(/["\\]/g, "\\$&")}"`;

function field(name, label, input, condition) {
  input.id = `filter-${name}`;
  const change = () => {
    const made = condition(input);
    if (made) where.set(name, made);
    else where.delete(name);
    refresh();
  };
  input.addEventListener("change", change);
  const line = made("p");
  const told = made("label", label, { htmlFor: input.id });
  line.append(...(input.type === "checkbox" ? [input, told] : [told, input]));
  return line;
}

function named(name, { passing }) {
  const box = made("input", "", { type: "checkbox", checked: where.has(name) });
  return field(name, ` ${name} (${passing} items)`, box, (input) => input.checked && quoted(name));
}

function ofTexts(name, { values }) {
  const select = made("select");
  select.append(made("option", "any", { value: "" }));
  for (const value of values) {
    const chosen = where.get(name) === `${quoted(name)} = ${quoted(value)}`;
    select.append(made("option", short(value), { value, selected: chosen }));
  }
  return field(name, name, select, (input) => input.value && `${quoted(name)} = ${quoted(input.value)}`);
}

function ofNumbers(name, { least, most }) {
  return [[">=", "from", least], ["<=", "to", most]].map(([sign, word, end]) => {
    const held = where.get(`${name} ${word}`) || "";
    const input = made("input", "", { type: "number", step: "any", placeholder: String(end) });
    input.value = held.slice(held.lastIndexOf(" ") + 1);
    return field(`${name} ${word}`, `${name} ${word}`, input, (one) => one.value && `${quoted(name)} ${sign} ${one.value}`);
  });
}

async function showFilters() {
  const found = await ask(`filters${model ? `?model=${encodeURIComponent(model)}` : ""}`);
  showModel(found);
  const columns = Object.entries(found.attributes).slice(0, CHOICES);
  const fields = [
    ...Object.entries(found.filters).map(([name, about]) => named(name, about)),
    ...columns.flatMap(([name, about]) => (about.kind === "text" ? [ofTexts(name, about)] : ofNumbers(name, about))),
  ];
  part("filters").replaceChildren(...fields);
  part("filtering").hidden = !fields.length;
  if (where.size) part("filtering").open = true;
}

async function showModels() {
  const { models } = await ask("v2/models");
  if (models.length < 2) return;
  const select = made("select");
  select.setAttribute("aria-label", "Model");
  select.append(made("option", "as requests are split", { value: "" }));
  for (const name of models) select.append(made("option", name, { value: name, selected: name === model }));
  select.addEventListener("change", async () => {
    model = select.value;
    before = new Set();
    await showFilters();
    search();
    refresh();
  });
  part("model").before(select);
}

async function begin() {
  const held = new URLSearchParams(location.hash.slice(1));
  model = held.get("model") || "";
  for (const key of held.getAll("item")) session.push({ key, title: key });
  for (const one of held.getAll("where")) {
    const end = one.indexOf("\n");
    if (end > 0) where.set(one.slice(0, end), one.slice(end + 1));
  }
  search();
  refresh();
  try {
    await showFilters();
    await showModels();
  } catch (error) {
    say(error.message, true);
  }
}

let timer;
part("find").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(search, WAIT);
});
part("clear").addEventListener("click", () => {
  session.length = 0;
  refresh();
  part("find").focus();
});
begin();
