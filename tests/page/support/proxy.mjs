// A reverse proxy that serves the page below a path, and strips that.
import http from "node:http";

export async function proxy(service, path) {
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith(`${path}/`)) return response.writeHead(404).end("not below the path");
    const { hostname, port } = new URL(service.base);
    const options = { hostname, port, method: request.method, path: request.url.slice(path.length), headers: request.headers };
    const onward = http.request(options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.writeHead(502).end());
    request.pipe(onward);
    return undefined;
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const end = () => { server.closeAllConnections(); return new Promise((resolve) => server.close(resolve)); };
  return { base: `http://127.0.0.1:${server.address().port}${path}`, end };
}
