// JSON as text. Numbers such as 1.0 or 12345678901234567890 stay as they were written, which JSON.parse would change.

/** Return the members of a JSON object: a Map from name to the text of the value. Throws SyntaxError. */
export function members(text) {
  if (Object.prototype.toString.call(JSON.parse(text)) !== "[object Object]") throw new SyntaxError("This is not a JSON object.");
  const found = new Map();
  let at = skip(text, text.indexOf("{") + 1);
  while (text[at] !== "}") {
    const nameEnd = valueEnd(text, at);
    const valueStart = skip(text, skip(text, nameEnd) + 1);
    const end = valueEnd(text, valueStart);
    found.set(JSON.parse(text.slice(at, nameEnd)), text.slice(valueStart, end));
    at = skip(text, end);
    if (text[at] === ",") at = skip(text, at + 1);
  }
  return found;
}

/** Write members as a JSON object on one line. */
export function joined(found) {
  return `{${[...found].map(([name, raw]) => `${JSON.stringify(name)}: ${raw}`).join(", ")}}`;
}

/** Write JSON on several lines, with two spaces for each level. Values keep their text. Throws SyntaxError. */
export function formatted(text) {
  JSON.parse(text);
  let level = 0;
  let out = "";
  for (let at = skip(text, 0); at < text.length; at = skip(text, at)) {
    const one = text[at];
    if (one === '"') {
      const end = stringEnd(text, at);
      out += text.slice(at, end);
      at = end;
      continue;
    }
    at += 1;
    if (one === "{" || one === "[") {
      const next = text[skip(text, at)];
      if (next === "}" || next === "]") {
        out += one + next;
        at = skip(text, at) + 1;
      } else {
        out += one + line(++level);
      }
    } else if (one === "}" || one === "]") out += line(--level) + one;
    else if (one === ",") out += one + line(level);
    else out += one === ":" ? ": " : one;
  }
  return out;
}

function line(level) {
  return `\n${"  ".repeat(level)}`;
}

function skip(text, at) {
  while (at < text.length && " \t\r\n".includes(text[at])) at += 1;
  return at;
}

function stringEnd(text, at) {
  for (at += 1; text[at] !== '"'; at += 1) if (text[at] === "\\") at += 1;
  return at + 1;
}

function valueEnd(text, at) {
  let level = 0;
  while (at < text.length) {
    const one = text[at];
    if (one === '"') {
      at = stringEnd(text, at);
      if (level === 0) return at;
      continue;
    }
    if (level === 0 && ",]}: \t\r\n".includes(one)) return at;
    if (one === "{" || one === "[") level += 1;
    if (one === "}" || one === "]") {
      level -= 1;
      if (level === 0) return at + 1;
    }
    at += 1;
  }
  return at;
}
