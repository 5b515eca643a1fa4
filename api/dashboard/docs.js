"use strict";
// With keys enabled /openapi.json needs one too, so this page asks for it. The key is shared with the dashboard, and
// kept for as long as this tab is open.
const form = document.getElementById("ask");

async function show() {
  const key = sessionStorage.getItem("key") ?? "";
  const answer = await fetch("/openapi.json", { headers: key ? { "X-API-Key": key } : {} });
  const body = await answer.json();
  form.hidden = answer.ok;
  if (!answer.ok) {
    sessionStorage.removeItem("key");
    document.getElementById("why").textContent = body.detail;
    return;
  }
  const ui = SwaggerUIBundle({
    dom_id: "#ui", deepLinking: true, validatorUrl: null, persistAuthorization: false, tryItOutEnabled: true,
    spec: body,
    onComplete: () => { if (key) ui.preauthorizeApiKey("key", key); },
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", document.getElementById("key").value);
  show();
});
show();
