"""Who may call: TLS and client certificates, bearer tokens, and the caller that follows from them."""

from rcjax.serving.security.certificates import CertificateFiles as CertificateFiles
from rcjax.serving.security.channel import ChannelSecurity as ChannelSecurity
from rcjax.serving.security.channel import new_aio_channel as new_aio_channel
from rcjax.serving.security.channel import new_channel as new_channel
from rcjax.serving.security.server import ServerSecurity as ServerSecurity
