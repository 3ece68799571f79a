"use strict";

document.getElementById("host").textContent = location.host;

SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("reference"),
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  // A token is kept in this page and nowhere else: it is gone when the page is.
  persistAuthorization: false,
  // It would send the document to a server of its makers.
  validatorUrl: null,
});
