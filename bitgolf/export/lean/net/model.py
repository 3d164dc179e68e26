"""The network: one forward pass, in plain operations of torch."""

from bitgolf.net.backend import Backend
from bitgolf.net.kernels import PlainKernels, sdpa_attend
from bitgolf.net.parts import Attend


def choose_kernels(backend: Backend) -> PlainKernels:
    """The operations as one would write them in torch."""
    return PlainKernels()


def choose_attention(backend: Backend) -> Attend:
    """Torch's own kernel."""
    return sdpa_attend
