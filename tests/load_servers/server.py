# A small SSE server at /, as an application has one: GET is the stream, POST publishes its body. Prints its port.
import asyncio

streams = set()
history = []  # the last events, the newest last
last = 0


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            if head[0].startswith("POST"):
                publish(await reader.readexactly(int(headers["content-length"])))
                writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\nretry: 100\n\n")
            if "last-event-id" in headers:
                writer.writelines(frame for number, frame in history if number > int(headers["last-event-id"]))
            streams.add(writer)
            await reader.read()  # until the client leaves
            return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        streams.discard(writer)
        writer.close()


def publish(body):
    global last
    last += 1
    frame = b"id: %d\ndata: %s\n\n" % (last, body)
    history.append((last, frame))
    del history[:-1000]
    send(frame)


def send(frame):
    for writer in list(streams):
        writer.write(frame)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await asyncio.sleep(1)
        send(b":\n\n")


asyncio.run(main())
