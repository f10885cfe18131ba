"""`GET /`: what runs here and how to call it."""

from __future__ import annotations

from html import escape
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from ostro.server.context import ServerContext, context_of
from ostro.server.models import ModelState, ServedModel

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ostro</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} td, th {{ text-align: left; padding: .2rem 1.2rem .2rem 0; }}
pre {{ background: #f3f3f0; padding: 1rem; overflow-x: auto; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181a; color: #ddd; }} pre {{ background: #222; }} }}
</style>
<h1>Ostro</h1>
<p>This server answers OpenAI's and Mistral's APIs under <code>/v1</code>.</p>
<table><tr><th>model</th><th>state</th><th>context</th><th>parameters</th><th>runs on</th></tr>
{rows}</table>
<h2>Call it</h2>
<pre>curl {url}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Where is my card?"}}]}}'</pre>
<pre>from ostro import Client
print(Client(endpoint="{url}").infer(inputs={{"text": "Where is my card?"}}).text)</pre>
<p><a href="/v1/models">/v1/models</a> · <a href="/health/ready">/health/ready</a> ·
<a href="/metrics">/metrics</a> · <a href="/openapi.json">/openapi.json</a></p>
</html>
"""


@router.get("/", response_class=HTMLResponse)
async def home(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> HTMLResponse:
    models = list(context.models.served.values())
    page = _PAGE.format(
        rows="".join(_row(model, context.models.state(model)) for model in models),
        url=escape(str(request.base_url).rstrip("/")),
        model=escape(models[0].name),
    )
    # The page needs nothing from elsewhere and runs no script.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(page, headers={"content-security-policy": policy})


def _row(model: ServedModel, state: ModelState) -> str:
    card = model.engine.card
    cells = [model.name, state.reason or state.state]
    if card is not None:
        cells += [f"{card.context} tokens", f"{card.parameters:,}", f"{card.device}, {card.dtype}"]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
