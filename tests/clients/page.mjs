// A page of another origin in Chromium, with one EventSource that nobody helps.

import { launch, open, serve } from "./browser.mjs";
import { record } from "./record.mjs";
import { tell, untilStopped } from "./told.mjs";

const HTML = `<!doctype html>
<title>One EventSource</title>
<script>
  ${record}
  const source = new EventSource(new URLSearchParams(location.search).get("stream"));
  record(source, tell);
</script>`;

const origin = await serve(HTML);
const browser = await launch();
tell({ kind: "ready", data: origin });

await untilStopped(async (url) => {
  await open(browser, `${origin}/?stream=${encodeURIComponent(url)}`, (page) => page.exposeFunction("tell", tell));
  return () => browser.close();
});
