from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention


# With a function `prepare` of the weights, called once per set: block(x, prepared, n_head)
def block(
    x: Tensor,
    attn_ln_weight: Tensor,
    attn_ln_bias: Tensor,
    q_weight: Tensor,
    q_bias: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    v_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    mlp_ln_weight: Tensor,
    mlp_ln_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    n_head: int,
) -> Tensor:
    def split(y: Tensor) -> Tensor:
        return y.unflatten(-1, (n_head, -1)).transpose(1, 2)  # (B, H, T, D)

    size = attn_ln_weight.shape
    normed = layer_norm(x, size, attn_ln_weight, attn_ln_bias)
    q, k = linear(normed, q_weight, q_bias), linear(normed, k_weight)
    v = linear(normed, v_weight, v_bias)
    context = scaled_dot_product_attention(split(q), split(k), split(v))  # (B, H, T, D)
    x = x + linear(context.transpose(1, 2).flatten(2), out_weight, out_bias)
    normed = layer_norm(x, size, mlp_ln_weight, mlp_ln_bias)
    return x + linear(gelu(linear(normed, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)
