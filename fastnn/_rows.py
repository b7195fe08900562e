"""The language of a plan: what a row of integers says. Written by ``plan``, walked by the engines.

A plan is an ``(n_rows, WIDTH)`` int64 matrix. A matrix of activations is a *slot*: a row-major block in the workspace
of one piece of the batch, at ``offset * piece_rows``, with a leading dimension of its own. Offset -1 means the
network's input (or, for gradients, the caller's array for dLoss/dX).
"""

# Kinds of rows.
DENSE, ACTIVATION, DROPOUT, BATCH_NORM, LAYER_NORM, SPLIT, ADD = range(7)

# How the activation at the end of a DENSE row is computed.
IDENTITY, RELU, ELEMENTWISE, ROWWISE = range(4)

(
    KIND,
    N_IN,
    N_OUT,
    IN,  # slot of the input, -1: the network's input
    LD_IN,
    OUT,  # slot of the output
    LD_OUT,
    SLOPE,  # slot of activation slopes, dropout factors or normalised inputs; leading dimension LD_OUT
    D_IN,  # slot of dLoss/d input, -1: the caller's
    D_OUT,  # slot of dLoss/d output
    SKIP,  # ADD: slot of the shortcut; SPLIT: gradient slot of its ADD
    NEEDS_D_IN,  # a parameter lies before this row
    W,  # offset of the weights in theta; normalisations: of the gains
    B,  # offset of the biases, -1: none
    STATISTICS,  # 1 / deviation: BATCH_NORM: offset in the shared workspace, LAYER_NORM: slot
    RUNNING,  # offset of running mean and variance, -1: none
    REALS,  # offset of this row's numbers: rate, eps, momentum, or an activation's parameters
    ACT,  # IDENTITY, RELU, ELEMENTWISE or ROWWISE
    SLOPE_DONE,  # the consumer's product already multiplies D_OUT by this row's slope
    EPILOGUE,  # what the product for D_IN does with the producer's slope
    EPILOGUE_SLOT,
    PENALTY,  # offset of (l1, l2) in reals, -1: none
    BLOCK,  # rows of the weights that are updated at once, set by the engine
    GEMM,  # addresses from here on
    VALUE,
    FORWARD,
    BACKWARD,
    CURVATURE,
    TANGENT,
    TANGENT_BACKWARD,
    WIDTH,
) = range(31)

# Every plan's numbers begin with an (l1, l2) of zeros. An engine may point rows without a penalty there, and each batch
# then writes its own l2.
SHARED_PENALTY = 0

# Bits of the forward and backward modes.
TRAINING = 1  # batch statistics and dropout
KEEP = 2  # store the slopes that a backward pass needs
SKIP_LAST = 4  # the loss starts from the last row's pre-activations

# What a product does to its sums before it stores them: max(c, low); c where e > 0, else 0; c * e.
CLAMP, GATE, SCALE = range(3)
