"""Adapter and mixers in a header, compressed by deflate with a preset dictionary of their usual words.

A zlib stream (RFC 1950) names its dictionary by an Adler-32, so a file says which one it needs. The
dictionaries are part of the format and never change. Better ones are appended, and new files use the last.
"""

import zlib

from bitgolf.base.errors import ArtifactError

HAS_DICTIONARY = 0x20  # in the second byte of a stream; the checksum of the dictionary follows
PLAN_1 = (
    b'{"adapter":{"class":"ScoreFirst","chunk_tokens":32768,"epochs":3,"rule":{"class":"SgdRule","lr":0.002,'
    b'"momentum":0.9,"weight_decay":0.0},"schedule":{"class":"Cosine","minimum":0.0},"tensors":["*"],"frozen":[],'
    b'"sequence_length":0,"batch_sequences":32,"clip":1.0,"noise":{"class":"NoNoise"},"caps":{"class":"Frozen"}},'
    b'"mixers":[]}{"class":"BytePpm","order":6,"start":0.05,"floor":0.001},{"class":"LongestMatch","shortest":1,'
    b'"longest":24,"tries":32,"start":0.1},{"class":"NearestStates","states":8192,"neighbours":32,"bandwidth":0.03,'
    b'"certain":0.9,"start":0.08},{"class":"TokenTilt","order":16,"share":0.8,"boost":2.625},{"class":"NgramCache",'
    b'"order":2,"weight":0.02,"kappa":0.5},{"adapter":{"class":"NoAdapter"},"mixers":[{"class":"InterpolatedNgrams",'
    b'"order":5,"start":0.02,"per_document":true},{"class":"InterpolatedNgrams","order":5,"start":0.02,'
    b'"per_document":false}]}'
)
DICTIONARIES = (PLAN_1,)


def deflated_plan(plan: bytes) -> bytes:
    """A plan as JSON, compressed."""
    deflate = zlib.compressobj(9, zdict=DICTIONARIES[-1])
    return deflate.compress(plan) + deflate.flush()


def inflated_plan(data: bytes, most: int, where: str) -> bytes:
    """The inverse of `deflated_plan`, at most `most` bytes; older files have no dictionary. where: the file.

    Raises ArtifactError for an unknown dictionary, and for data that is no stream.
    """
    dictionary = b""
    if len(data) >= 6 and data[1] & HAS_DICTIONARY:
        known = {zlib.adler32(each): each for each in DICTIONARIES}
        if (wanted := int.from_bytes(data[2:6], "big")) not in known:
            raise ArtifactError(
                "its plan needs a dictionary that is not known here",
                where=where,
                value=f"{wanted:08x}",
                way_out="read it with the version of bitgolf that wrote it, or a later one",
            )
        dictionary = known[wanted]
    try:
        return zlib.decompressobj(zdict=dictionary).decompress(data, most)
    except zlib.error as error:
        raise ArtifactError(f"how its model adapted cannot be read: {error}", where=where) from None
