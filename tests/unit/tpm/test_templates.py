"""The templates are frozen: a changed byte makes other keys and voids every enrolment."""

import hashlib

from tpm2_pytss import TPMT_PUBLIC

from nova_trusted_clone.tpm import templates


def test_templates_are_what_they_were():
    digests = [
        hashlib.sha256(template).hexdigest()
        for template in (
            templates.AK_TEMPLATE,
            templates.EK_RSA_TEMPLATE,
            templates.EK_ECC_TEMPLATE,
        )
    ]
    assert digests == DIGESTS


def test_libtss2_reads_them_and_writes_the_same_bytes():
    for template in (templates.AK_TEMPLATE, templates.EK_RSA_TEMPLATE, templates.EK_ECC_TEMPLATE):
        area, rest = TPMT_PUBLIC.unmarshal(template)
        assert rest == len(template)
        assert bytes(area.marshal()) == template


DIGESTS = [
    "14d5d4d5a658cebc0485243a41d33f268fb11f5a4e4227a8a5193db734bba650",
    "32503929a1287eedaa3e89d932f9b51a6f92abd0fa57721ffa6fc041e04f7498",
    "0f1277a2f3f382e7f75db466fac234182a8d62f97dfbaae7b06fdf52bda51467",
]
