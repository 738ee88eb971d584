"""What a policy is, and the engines that run it.

A policy is a graph (ONNX), its named weights (safetensors), a probe batch and a manifest. Only
`export` and `torch_engine` know torch; everything else here runs in an actor without it.
"""
