"""Intents on disk: safetensors shards and a manifest, keyed by sample, equal intents stored once.

    keys-00000.safetensors      keys int64 (m,) ascending, rows int32 (m, P): which intent a sample has
    keys-00001.safetensors ...  from each perspective
    intents-00000.safetensors   intents float16 (d, E), items int32 (d, F), weights float16 (d, F)
    manifest.json               what they were made from, each shard's rows, bytes and sha256; written last

Every keys shard's keys are above those of the shard before, so all of them are one sorted list that is
searched where it lies. Shards are memory-mapped when they are first needed: opening reads the manifest and
looks at the files' sizes, however large they are. What is in them is read and compared by `verify`.
"""

from llm4sbr.intents.layout import FORMAT, MANIFEST
from llm4sbr.intents.reader import IntentStore, verify_all
from llm4sbr.intents.writer import IntentWriter

__all__ = ["FORMAT", "MANIFEST", "IntentStore", "IntentWriter", "verify_all"]
