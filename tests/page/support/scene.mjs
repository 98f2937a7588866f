// What a file of tests shares: a browser and a service. Whatever fails, both end.
import { after, before } from "node:test";
import { launch } from "./browser.mjs";
import { Service } from "./service.mjs";

// Filled before the first test; `prepare` puts more into it.
export function scene(prepare = () => {}) {
  const it = { ending: [] };
  before(async () => {
    it.service = await Service.start();
    it.ending.push(() => it.service.end());
    it.browser = await launch();
    it.ending.push(() => it.browser.close());
    await prepare(it);
  });
  after(async () => {
    for (const end of it.ending.reverse()) await end();
  });
  return it;
}
