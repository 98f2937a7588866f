// The picture in README, from the try-out's data: updated with UPDATE_PICTURE=1.
import assert from "node:assert/strict";
import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";
import { ROOT } from "./support/service.mjs";
import { tryOut } from "./support/try_out.mjs";

const FILE = join(ROOT, "docs/page.png");
const MOST = 200 * 1024;

const it = scene(tryOut);

test("the picture in docs is small, and can be made", async () => {
  const page = await open(it.browser, it.service, { viewport: { width: 1200, height: 960 }, colorScheme: "light" });
  await page.visit();
  await page.getByText("4736").first().waitFor();
  const picture = await page.screenshot();
  assert.ok(picture.length <= MOST, `${picture.length} bytes`);
  if (process.env.UPDATE_PICTURE === "1") writeFileSync(FILE, picture);
  assert.ok(statSync(FILE).size <= MOST);
  await page.end();
});
