from tests.unit.conductor.cloud import cloud as cloud
