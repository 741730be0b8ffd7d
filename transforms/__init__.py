"""All rules, ordered by code. This list is the only place that names them."""

from __future__ import annotations

from refactor.transforms import (
    cg101_host_read,
    cg102_copy_to_host,
    cg103_shown_tensor,
    cg104_tensor_assert,
    cg105_explicit_synchronize,
    cg106_synchronising_op,
    cg201_varying_batch,
    cg202_data_dependent_shape,
    cg203_boolean_mask_index,
    cg204_size_from_device,
    cg205_data_dependent_launch,
    cg301_tensor_branch,
    cg302_tensor_while,
    cg303_counted_loop,
    cg304_tensor_truth,
    cg401_host_constant,
    cg402_host_to_device,
    cg403_index_list,
    cg404_temporary,
    cg406_scalar_scatter,
)

from refactor.rule import Rule

RULES: tuple[Rule, ...] = (
    cg101_host_read.RULE,
    cg102_copy_to_host.RULE,
    cg103_shown_tensor.RULE,
    cg104_tensor_assert.RULE,
    cg105_explicit_synchronize.RULE,
    cg106_synchronising_op.RULE,
    cg201_varying_batch.RULE,
    cg202_data_dependent_shape.RULE,
    cg203_boolean_mask_index.RULE,
    cg204_size_from_device.RULE,
    cg205_data_dependent_launch.RULE,
    cg301_tensor_branch.RULE,
    cg302_tensor_while.RULE,
    cg303_counted_loop.RULE,
    cg304_tensor_truth.RULE,
    cg401_host_constant.RULE,
    cg402_host_to_device.RULE,
    cg403_index_list.RULE,
    cg404_temporary.RULE,
    cg406_scalar_scatter.RULE,
)
