// The command that asks a deployment, with the rows and the key that were used last.

const LONGEST = 2000; // characters of rows; more are read from a file
const BODY = " -d ";

/** @param {string} curl as the API gives it @param {any[]|null} rows that were tried @param {string} key */
export function command(curl, rows, key) {
  let text = curl;
  if (rows) {
    const body = JSON.stringify({ instances: rows });
    text = curl.slice(0, curl.indexOf(BODY)) + BODY + (body.length > LONGEST ? "@rows.json" : quoted(body));
  }
  return key ? text.replace("$KUBESERVE_KEY", () => key) : text;
}

/** One word of a shell. @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", `'"'"'`)}'`;

/** What the command needs that is not in it. @param {string} text */
export function needs(text) {
  const needed = [];
  if (text.includes("$KUBESERVE_KEY")) {
    needed.push("an API key in KUBESERVE_KEY");
  }
  if (text.endsWith("@rows.json")) {
    needed.push('rows.json, with {"instances": [row, …]}');
  }
  return needed.length ? `The command needs ${needed.join(", and ")}.` : "";
}
