"""Intents on disk: safetensors shards and a manifest, keyed by sample; equal intents are stored once.

    keys-00000.safetensors      keys int64 (m,) ascending, rows int32 (m, P): the intent of each sample
    keys-00001.safetensors ...  from each perspective
    intents-00000.safetensors   intents float16 (d, E), items int32 (d, F), weights float16 (d, F)
    manifest.json               what they were made from, each shard's rows, bytes and sha256; written last

Keys ascend over all shards, so they can be searched on disk as one sorted list. Shards are memory-mapped on
first use: opening reads only the manifest and checks the files' sizes, however large they are. `verify` reads
and checks their content.
"""

from llm4sbr.intents.manifest import FORMAT, MANIFEST
from llm4sbr.intents.reader import IntentStore, sources_of, verify_all
from llm4sbr.intents.writer import IntentWriter

__all__ = ["FORMAT", "MANIFEST", "IntentStore", "IntentWriter", "sources_of", "verify_all"]
