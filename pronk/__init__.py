"""IMPALA as microservices: the library of all services."""
