"""The background process under Qt, the job around it, and the module panel."""
