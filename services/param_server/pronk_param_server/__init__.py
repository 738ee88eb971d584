"""The parameter server: run state, members, versions, releases."""
