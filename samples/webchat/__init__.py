"""The chat in a browser: the rooms of `samples/chat`, so browsers and `nc` users talk to each other.

Read it in this order:

1. `../web/`       HTTP/1.1 on a connection: the page is asked for, and the WebSocket.
2. `websocket.py`  one WebSocket: frames, limits, pings, and an end in order with the right code.
3. `view.py`       what a browser is told, as JSON; no sockets.
4. `server.py`     a browser in the lobby; who may connect; how a member ends.
5. `page.html`     the page, whole: nothing else is loaded.
6. `command.py`    the command line: `python -m samples.webchat --help`. With `--redis` it is one of many nodes.
"""
