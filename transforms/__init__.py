"""All rules, ordered by code. This list is the only place that names them."""

from __future__ import annotations

from refactor.transforms import (
    cg201_varying_batch,
    cg301_tensor_branch,
    cg302_tensor_while,
    cg303_counted_loop,
    cg401_host_constant,
    cg402_host_to_device,
    cg403_index_list,
    cg404_temporary,
)

from refactor.rule import Rule

RULES: tuple[Rule, ...] = (
    cg201_varying_batch.RULE,
    cg301_tensor_branch.RULE,
    cg302_tensor_while.RULE,
    cg303_counted_loop.RULE,
    cg401_host_constant.RULE,
    cg402_host_to_device.RULE,
    cg403_index_list.RULE,
    cg404_temporary.RULE,
)
