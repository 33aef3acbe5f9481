"""Whatever bytes come, only a CoreError comes out of the parsers of attestation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nova_trusted_clone.core.attest import certchain, certificate, eventlog, quote, tpm_structs
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.errors import CoreError
from tests.fuzz.mutation import mutated
from tests.unit.core.software_tpm import SoftwareTpm, key_from
from tests.unit.core.world import NOW, Authorities, Machine, World, pem

CLOUD = Authorities()
HOST = Machine("compute-1", CLOUD)
TPM = SoftwareTpm(key_from("ak"))
KEY = tpm_structs.parse_attestation_key(TPM.ak_public)
ATTEST, SIGNATURE = TPM.quote(bytes(32), range(8))
EK_CHAIN = HOST.vtpm("clone").ek_chain


def only_core_errors(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except CoreError:
        return None


PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "attest": (tpm_structs.parse_attest, ATTEST),
    "header": (tpm_structs.attest_header, ATTEST),
    "public": (tpm_structs.parse_attestation_key, TPM.ak_public),
    "signature": (lambda data: tpm_structs.signature_holds(KEY, ATTEST, data), SIGNATURE),
    "event log": (lambda data: eventlog.replay(eventlog.parse(data)), HOST.log),
    "policy": (Policy.parse, World().policy_json),
    "certificate": (lambda data: certificate.read(data, "x"), HOST.ak_cert),
    "identity": (certchain.ak_certificate_identity, HOST.ak_cert),
    "anchors": (TrustAnchors.from_pem, pem(CLOUD.roots[Role.VTPM])),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_input(name: str, data: st.DataObject) -> None:
    parse, good = PARSERS[name]
    only_core_errors(parse, data.draw(mutated(good)))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_input(name: str, data: bytes) -> None:
    only_core_errors(PARSERS[name][0], data)


@settings(max_examples=400, deadline=None)
@given(attest=mutated(ATTEST), signature=mutated(SIGNATURE))
def test_no_mutated_quote_is_accepted(attest: bytes, signature: bytes) -> None:
    pcrs = {index: bytes(32) for index in range(8)}
    verdict, facts = quote.verify_quote(
        KEY, attest, signature, qualifying_data=bytes(32), pcrs=pcrs
    )
    if attest != ATTEST:
        assert facts is None
        assert not verdict.ok


@settings(max_examples=400, deadline=None)
@given(leaf=mutated(EK_CHAIN[0]), middle=mutated(EK_CHAIN[1]))
def test_no_mutated_chain_is_accepted(leaf: bytes, middle: bytes) -> None:
    verdict = certchain.verify_chain(leaf, [middle], CLOUD.anchors, Role.VTPM, NOW)
    assert verdict.ok == ((leaf, middle) == EK_CHAIN)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_certificate_with_a_single_bit_flipped_is_accepted() -> None:
    """All of them: the library reads some fields late, and each has to be read before it is used."""
    for place in range(len(HOST.ak_cert) * 8):
        spoiled = bytearray(HOST.ak_cert)
        spoiled[place // 8] ^= 1 << place % 8
        verdict = certchain.verify_chain(bytes(spoiled), [], CLOUD.anchors, Role.ATTESTATION, NOW)
        assert not verdict.ok, f"bit {place}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from(sorted(json.loads(World().policy_json))) | st.text(max_size=4), value=JSON
)
def test_any_json_in_a_policys_place(key: str, value: Any) -> None:
    raw = {**json.loads(World().policy_json), key: value}
    only_core_errors(Policy.parse, json.dumps(raw).encode())
