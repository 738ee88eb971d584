"""Networks: torsos, cores, heads."""
