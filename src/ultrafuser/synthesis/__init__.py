"""UltraChat 2: instruction data for one's own domains, synthesised by a strong model in stages.

Ding et al., ACL 2025, appendix on data; the prompts are our own. Never imports torch.
"""

from ultrafuser.synthesis.domain import Domain, load_domain, open_domains
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.spec import Spec, load_spec

__all__ = ["Domain", "Journal", "Record", "Spec", "load_domain", "load_spec", "open_domains"]
