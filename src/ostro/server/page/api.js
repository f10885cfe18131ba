// The server's API. Addresses are relative to the page, so that it works behind a proxy's prefix.

import { eventData } from "./sse.js";

const KEY = "ostro.key";

/** What went wrong, in the server's words where it said some. status: 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, requestId = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, requestId, retryAfter });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function send(path, { body, method = body ? "POST" : "GET", signal } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method,
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. It may have stopped, or the network is down.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status, headers } = response;
  let said = {};
  try {
    said = (await response.json()).error ?? {};
  } catch {
    // Not our server's words: a proxy's page, perhaps.
  }
  const seconds = Number.parseFloat(headers.get("retry-after") ?? "");
  return new ApiError(said.message || `The server answered ${status} ${response.statusText}.`, {
    status,
    code: said.code ?? null,
    param: said.param ?? null,
    requestId: headers.get("x-request-id"),
    retryAfter: Number.isFinite(seconds) ? seconds : null,
  });
}

export const listModels = async () => (await (await send("v1/models")).json()).data;
export const checkReady = () => send("health/ready");
export const loadModel = (name) =>
  send(`v1/models/${name.split("/").map(encodeURIComponent).join("/")}/load`, { method: "POST" });

export const infer = async (body) => (await send("v1/infer", { body })).json();

/** Start a streamed chat. Gives {requestId, ignored, chunks}; chunks throws ApiError for what goes wrong midway. */
export async function streamChat(body, signal) {
  const response = await send("v1/chat/completions", { body, signal });
  const requestId = response.headers.get("x-request-id");
  return { requestId, ignored: response.headers.get("x-ostro-ignored"), chunks: chunks(response, requestId, signal) };
}

async function* chunks(response, requestId, signal) {
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) {
        const { message, status = 500, code, param, retry_after: retryAfter } = chunk.error;
        throw new ApiError(message, { status, code, param, requestId, retryAfter });
      }
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
  }
  throw new ApiError("The connection broke before the answer was whole.", { requestId });
}
