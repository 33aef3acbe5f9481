"""What a host, a vTPM or a control plane is recognised by; every check has a name.

* ``verdict``: checks and verdicts; ``quote``, ``tpm_structs``: TPM quotes
* ``certchain``, ``certificate``, ``roles``, ``issue``: certificates by role, judged and made
* ``eventlog``, ``policy``: the measured boot and what it may be; ``credential``: MakeCredential
"""
