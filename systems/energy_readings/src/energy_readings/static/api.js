// Calls of the two APIs. What goes wrong is thrown as `{ message, faults }`.
export async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(10000), ...options });
  } catch {
    throw { message: "The server does not answer. Is the network there?", faults: [] };
  }
  const answer = await response.json().catch(() => ({ error: `The server answers ${response.status}.` }));
  if (!response.ok) {
    throw { message: answer.error, faults: answer.faults ?? [] };
  }
  return answer;
}
