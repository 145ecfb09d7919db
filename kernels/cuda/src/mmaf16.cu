// Products of f16 on tensor cores.
#include "mma.h"

PRODUCTS(f16, F16)
