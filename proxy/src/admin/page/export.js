// Rows as a file.

function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  // Clients choose ids, and a spreadsheet takes what begins like this for a formula.
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** By RFC 4180, with a line of names first. */
export function toCsv(names, rows) {
  const lines = [names, ...rows.map((row) => names.map((name) => row[name]))];
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}

export function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `sse-guard-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}-${name}`;
  link.click();
  // The browser reads it after the click.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
