"""A step of every kind, and how it is told in plain words."""

from __future__ import annotations

from kvlockstep._prompt_steps import (
    AppendTokens,
    CanTrimPrompt,
    LruFetch,
    LruInsert,
    LruTrim,
    MakePrompt,
    TrieAdd,
    TrieGet,
    TriePop,
    TriePopPrefixes,
    TrieSearch,
    TrimPrompt,
)
from kvlockstep._recipes import Bits, Literals, Rows
from kvlockstep._steps import (
    Advance,
    AttentionMask,
    CausalMask,
    Construct,
    Copy,
    Depends,
    Extend,
    Extract,
    Fetch,
    Filter,
    Finalize,
    FrontTrim,
    GetItem,
    Hold,
    Made,
    Mask,
    Merge,
    Prepare,
    Quantize,
    Reload,
    Reserve,
    SetItem,
    SetMetaState,
    SetState,
    Transfer,
    Trim,
    Update,
)
from kvlockstep._trace import AnyStep

_KEYS = Rows(shape=("batch", 2, "room+1", 4), dtype="float16")
_RING = Made(cache="RotatingKVCache", args={"max_size": 4})
_NESTED = Made(cache="CacheList", children=(_RING,))

TOLD: dict[str, AnyStep] = {
    "a = KVCache()": Construct(cache="KVCache"),
    "b = BatchKVCache(left_padding=(1, 0))": Construct(
        slot="b", cache="BatchKVCache", args={"left_padding": (1, 0)}
    ),
    "a = BatchKVCache(left_padding=float32 [1])": Construct(
        cache="BatchKVCache", args={"left_padding": Literals(shape=(1,), values=(1.5,))}
    ),
    "a = CacheList(KVCache(), CacheList(RotatingKVCache(max_size=4)))": Construct(
        cache="CacheList", children=(Made(cache="KVCache"), _NESTED)
    ),
    "a.0: update with room+1 tokens, float16 [batch, 2, room+1, 4]": Update(
        slot="a.0", keys=_KEYS, values=_KEYS
    ),
    "a: update with room+1 tokens, float16 [batch, 2, room+1, 4], values as a NumPy array": Update(
        keys=_KEYS, values=_KEYS, values_as="numpy"
    ),
    "a: keys_and_values": Fetch(),
    "a: trim offset-1": Trim(n="offset-1"),
    "a.1: maybe_trim_front": FrontTrim(slot="a.1"),
    "a: make_mask(3, window_size=2, return_array=True)": Mask(n=3, window=2, return_array=True),
    "a: make_mask(3)": Mask(n=3, bare=True),
    "a: state = (int32 [2], (None, 3), 'KVCache')": SetState(
        state=(Literals(shape=(2,), dtype="int32", values=(1, 2)), (None, 3), "KVCache")
    ),
    "a: state = [None, None]": SetState(state=(None, None), as_list=True),
    "a: meta_state = ('4', '0')": SetMetaState(values=("4", "0")),
    "a: state = b.1's state": Transfer(source="b.1"),
    "a: keys = mx.depends(keys, ...)": Depends(),
    "a: reserve(tokens=offset+5)": Reserve(tokens="offset+5"),
    "a: keep a handle on the inputs": Hold(what="inputs"),
    "b = from_state(a's state)": Reload(to="b"),
    "b = from_state((int32 [1], 3), (('KVCache'), ('')))": Reload(
        to="b",
        state=(Literals(shape=(1,), dtype="int32", values=(1,)), 3),
        meta_state=(("KVCache",), ("",)),
    ),
    "b = deepcopy(a)": Copy(),
    "a = a.to_quantized(group_size=32, bits=8)": Quantize(group_size=32, bits=8),
    "a: filter(indices=(0, 'batch-1'), as_list=True)": Filter(
        indices=(0, "batch-1"), as_list=True
    ),
    "a: filter(indices=(3, 0, -1), as_slice=True)": Filter(indices=(3, 0, -1), as_slice=True),
    "a: filter(indices=int32 [1, 2])": Filter(
        indices=Literals(shape=(1, 2), dtype="int32", values=(0, 1))
    ),
    "a: extend with b": Extend(),
    "e = a.extract(batch-1)": Extract(index="batch-1"),
    "e = a.extract(True)": Extract(index=True),
    "m = merge([a, b, c.0])": Merge(peers=("b", "c.0")),
    "m = merge(a)": Merge(bare=True),
    "a: prepare(lengths=(3, 2), right_padding=(0, 1), fit=True)": Prepare(
        lengths=(3, 2), right_padding=(0, 1), fit=True
    ),
    "a: prepare(left_padding=int32 [])": Prepare(
        left_padding=Literals(shape=(), dtype="int32", values=(2,))
    ),
    "a: finalize()": Finalize(),
    "a: advance(n=2)": Advance(n=2),
    "a[1]": GetItem(index=1),
    "a[0] = None": SetItem(index=0, value=None),
    "a.0[-1] = float32 of raw bits [batch, 3]": SetItem(
        slot="a.0", index=-1, value=Bits(shape=("batch", 3))
    ),
    "create_causal_mask(3, 2, window_size=4, left_padding=(1, 0))": CausalMask(
        n=3, offset=2, window=4, left_padding=(1, 0)
    ),
    "create_attention_mask(3, 2, True, None)": AttentionMask(n=3, offset=2, return_array=True),
    "p0, p1, ... = make_prompt_cache(layers=2, max_kv_size=5)": MakePrompt(
        layers=2, max_kv_size=5
    ),
    "can_trim_prompt_cache(slots=('a', 'b.0'))": CanTrimPrompt(slots=("a", "b.0")),
    "trim_prompt_cache(slots=('a', 'b'), n=1.5)": TrimPrompt(slots=("a", "b"), n=1.5),
    "a: append_tokens(tokens=(7, 8))": AppendTokens(tokens=(7, 8)),
    "a: trie_add(model=None, tokens=(1, 'x', True), value=3)": TrieAdd(
        model=None, tokens=(1, "x", True), value=3
    ),
    "a: trie_get(tokens=(1, 2.0))": TrieGet(tokens=(1, 2.0)),
    "a: trie_pop(model=7, tokens=())": TriePop(model=7, tokens=()),
    "a: trie_pop_prefixes(tokens=(1,))": TriePopPrefixes(tokens=(1,)),
    "a: trie_search(tokens=(None,))": TrieSearch(tokens=(None,)),
    "a: lru_insert(tokens=(1, 2), caches=('s', 'b.0'), cache_type=user)": LruInsert(
        tokens=(1, 2), caches=("s", "b.0"), cache_type="user"
    ),
    "f0, f1, ... = a: lru_fetch(model=n, tokens=(1, 2))": LruFetch(model="n", tokens=(1, 2)),
    "a: lru_trim_to(n_sequences=0, n_bytes=-1)": LruTrim(n_sequences=0, n_bytes=-1),
}  # fmt: skip
