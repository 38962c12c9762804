"""Bytes of a parquet page that changed on disk: found where the file has checksums."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoring.sources.documents import iter_documents
from scoring.sources.local_files import open_local_files
from suites.common.errors import ExitCode, UserError
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition

pytestmark = pytest.mark.scoring

TEXTS = [f"document number {n} of forty" for n in range(40)]


def write_flipped(path, *, flipped: bytes, **options):
    """Texts as parquet without compression, one of whose bytes is another one."""
    table = pa.table({"text": TEXTS, "more": [text.upper() for text in TEXTS]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False, **options)
    content = bytearray(path.read_bytes())
    content[content.index(flipped)] ^= 1
    path.write_bytes(content)
    return open_local_files(hash_data_files(str(path)))


@pytest.mark.parametrize("page", [{"data_page_version": "1.0"}, {"data_page_version": "2.0"}, {"row_group_size": 7}])
@pytest.mark.parametrize("number", [0, 13, 39])
def test_a_flipped_byte_of_a_page_with_a_checksum_is_found(tmp_path, page, number):
    path = tmp_path / "a.parquet"
    source = write_flipped(path, flipped=f"number {number} of".encode(), write_page_checksum=True, **page)
    with pytest.raises(UserError, match=f"^{path}: not a valid parquet file.*CRC") as caught:
        list(iter_documents(SliceDefinition(), source))
    assert caught.value.code == ExitCode.CANNOT_SCORE


def test_a_flipped_byte_of_a_column_that_nobody_needs_is_no_matter(tmp_path):
    source = write_flipped(tmp_path / "a.parquet", flipped=b"NUMBER 13 OF", write_page_checksum=True)
    assert list(iter_documents(SliceDefinition(), source)) == TEXTS


def test_without_checksums_the_changed_text_is_what_the_file_says(tmp_path):
    source = write_flipped(tmp_path / "a.parquet", flipped=b"number 13 of", write_page_checksum=False)
    assert [text for text in iter_documents(SliceDefinition(), source) if text not in TEXTS] == ["document oumber 13 of forty"]
