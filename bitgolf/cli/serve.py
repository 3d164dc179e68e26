"""A packed model for programs that speak the OpenAI completions protocol."""

from typing import Annotated

import typer

from bitgolf.cli.faults import show_now
from bitgolf.cli.options import Json, ModelName
from bitgolf.export.exported import read_exported
from bitgolf.inputs.resolve import find_artifact
from bitgolf.net.backend import Backend
from bitgolf.public.optional import needs
from bitgolf.report import screen
from bitgolf.serve.app import Writer, server
from bitgolf.squeeze.artifact import load_model


def serve(
    model: ModelName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    window: Annotated[int, typer.Option(min=0, max=2**20, help="Tokens of context; 0: as in training.")] = 0,
    as_json: Json = False,
) -> None:
    """Serve a packed model by the OpenAI completions protocol, on this machine.

    GET /v1/models, POST /v1/completions, streamed or whole. Prompts are texts; errors have the protocol's
    form. Ctrl-C ends. With --json the object is printed once the server listens, with the url.
    Needs: pip install 'bitgolf[serve]'

    Example: bitgolf serve runs/demo --port 8000
    """
    needs("serve", "bottle")
    exported = read_exported(model)
    _, unpacked = find_artifact(model)
    writer = Writer(
        exported.name, load_model(unpacked, Backend()), unpacked.tokenizer, window or exported.window
    )
    listening = server(writer, host, port)
    url = f"http://{host}:{listening.server_port}/v1"
    if as_json:
        facts = {"status": "listening", "model": exported.name, "url": url, "window": writer.window}
        screen.close(facts, as_json=True)
        show_now()
    else:
        screen.note(f"model {exported.name} at {url}; Ctrl-C ends")
    try:
        listening.serve_forever()
    except KeyboardInterrupt:
        listening.server_close()
