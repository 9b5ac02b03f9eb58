// Wires the sections to one stream of events.

import { loadAudit, startActions } from "./actions.js";
import { startCharts } from "./charts.js";
import { loadDecisions, startDecisions } from "./decisions.js";
import { byId, setText } from "./dom.js";
import { startDrawer } from "./drawer.js";
import { clock } from "./format.js";
import { startMatrix } from "./matrix.js";
import { setLink, startPools } from "./pools.js";
import { startRequests } from "./requests.js";
import { begin, changed, fold, on, state } from "./state.js";
import { openStream } from "./stream.js";
import { startWhatIf } from "./whatif.js";
import { startWorkers } from "./workers.js";

startPools();
startWorkers();
startDrawer();
startMatrix();
startDecisions();
startWhatIf();
startRequests();
startCharts();

const stream = openStream("api/v1/events", fold, (link, why, status) => {
  byId("link").dataset.state = link;
  setText(byId("link-text"), link === "live" ? "Live" : status === 401 ? "Reading asks for a token: sign in" : `Not connected: ${why}`);
  setLink(link);
  if (link !== "live") return;
  begin();
  load();
});
startActions(() => stream.restart());

function load() {
  for (const read of [loadDecisions, loadAudit]) read().catch((error) => setText(byId("foot"), error.message));
  changed("audit", "decisions");
}

on(["status"], () => {
  const status = state.status;
  const models = [...new Set(state.groups.map((one) => one.model))].join(", ");
  setText(byId("model"), models);
  const leads = status.leader.backend === "none" ? "" : ` · ${status.leader.holder || "nobody"} leads (${status.leader.backend})`;
  setText(byId("foot"), `State of ${clock(status.at_s)}${leads}`);
});

const themeButton = byId("theme-button");
const nameTheme = () => {
  const kept = window.batonTheme.kept();
  setText(themeButton, { system: "Auto", light: "Light", dark: "Dark" }[kept]);
  themeButton.setAttribute("aria-label", `Colours: ${{ system: "as the system has them", light: "light", dark: "dark" }[kept]}`);
};
themeButton.addEventListener("click", () => {
  window.batonTheme.next();
  nameTheme();
});
nameTheme();
