"""A decoder with quantised weights run by one native call a step; the model itself is its reference."""

from __future__ import annotations

import torch

from ostro.engine.kv_cache import KVCache
from ostro.engine.paged_context import PagedContext
from ostro.kernels.dispatch import KV_TYPES, native
from ostro.kernels.packed_linear import PackedMatrices
from ostro.models.layers.decoder import Block, Decoder, FeedForward
from ostro.models.layers.formats import Quantised
from ostro.models.layers.linear import Linear


class NativeDecoder:
    """Takes what the model takes and gives the same numbers, bit by bit: it calls the same kernels in the same order.

    Between the operations of a layer Python and PyTorch cost some 100 microseconds; a layer of a small model takes
    little more than that for its products.
    """

    def __init__(self, model: Decoder, cache: KVCache, products: list[tuple[PackedMatrices, ...]]) -> None:
        """products: for each layer those of qkv, output, gate_up and down."""
        self._model = model
        self._products = products  # what native code refers to stays
        self._cache = cache
        config, layout = model.config, cache.layout
        self._step = native.DecoderStep(
            config.hidden_size,
            config.intermediate_size,
            layout.block_size,
            KV_TYPES[cache.keys[0].dtype],
            config.rms_norm_eps,
            model.norm.weight.data_ptr(),
        )
        for index, (block, (qkv, output, gate_up, down)) in enumerate(zip(_blocks(model), products, strict=True)):
            spec = block.attention.spec
            self._step.add_layer(
                block.attention_norm.weight.data_ptr(),
                qkv.native,
                output.native,
                block.feed_forward_norm.weight.data_ptr(),
                gate_up.native,
                down.native,
                cache.keys[index].data_ptr(),
                cache.values[index].data_ptr(),
                spec.heads,
                spec.kv_heads,
                spec.head_dim,
                layout.group_of[index],
                spec.window,
                spec.scale,
            )

    @classmethod
    def of(cls, model: Decoder, cache: KVCache) -> NativeDecoder | None:
        """None where the model is not wholly of what native code knows: then it runs operation by operation."""
        if native is None or model.device.type != "cpu" or model.dtype != torch.float32:
            return None
        if any(type(block) is not Block for block in _blocks(model)):
            return None
        products = [_products(block) for block in _blocks(model)]
        whole = [layer for layer in products if layer is not None]
        return cls(model, cache, whole) if len(whole) == len(products) else None

    def __call__(self, inputs: torch.Tensor, positions_T: torch.Tensor, context: PagedContext) -> torch.Tensor:
        """Token ids [T] or embeddings [T, D] (overwritten), positions [T] -> hidden states [T, D] after the final
        norm."""
        rotation = self._model.rotary(positions_T)
        x_TD = inputs if inputs.is_floating_point() else self._model.embed(inputs, torch.float32)
        assert x_TD.dtype == torch.float32
        assert x_TD.is_contiguous()
        out_TD = torch.empty_like(x_TD)
        chunk_rows = [row for chunk in context.chunks for row in (chunk.begin, chunk.end, chunk.start)]
        blocks = [blocks_B for chunk in context.chunks for blocks_B in chunk.blocks]
        # What native code reads by address must be as it believes.
        assert rotation.cos.is_contiguous()
        assert rotation.sin.is_contiguous()
        assert rotation.q_scale is None or (rotation.q_scale.dtype, rotation.q_scale.is_contiguous()) == (
            torch.float32,
            True,
        )
        assert positions_T.dtype == torch.int64
        assert positions_T.is_contiguous()
        assert context.row_sequence_T.is_contiguous()
        assert context.row_sequence_T.dtype == torch.int32
        assert all(slots_T.dtype == torch.int64 and slots_T.is_contiguous() for slots_T in context.slots)
        assert all(table.dtype == torch.int32 and table.stride(1) == 1 for table in context.tables)
        assert all(blocks_B.dtype == torch.int32 and blocks_B.is_contiguous() for blocks_B in blocks)
        self._step.run(
            out_TD.data_ptr(),
            x_TD.data_ptr(),
            x_TD.shape[0],
            rotation.cos.data_ptr(),
            rotation.sin.data_ptr(),
            0 if rotation.q_scale is None else rotation.q_scale.data_ptr(),
            positions_T.data_ptr(),
            context.row_sequence_T.data_ptr(),
            context.short_rows,
            [slots_T.data_ptr() for slots_T in context.slots],
            [table.data_ptr() for table in context.tables],
            [table.stride(0) for table in context.tables],
            chunk_rows,
            [blocks_B.data_ptr() for blocks_B in blocks],
        )
        return out_TD


def _blocks(model: Decoder) -> list[Block]:
    return list(model.layers)  # type: ignore[arg-type]  # they are Blocks


def _products(block: Block) -> tuple[PackedMatrices, ...] | None:
    """The four products of a layer, if each is one; gate and up have to be alike."""
    attention, feed_forward = block.attention, block.feed_forward
    assert isinstance(feed_forward, FeedForward)
    found = tuple(map(_product, (attention.qkv, attention.output, feed_forward.gate_up, feed_forward.down)))
    products = tuple(product for product in found if product is not None)
    return products if len(products) == len(found) and products[2].can_gate else None


def _product(layer: Linear) -> PackedMatrices | None:
    return layer.format.product if isinstance(layer.format, Quantised) else None
