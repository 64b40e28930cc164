{{- /* A value as TOML. Helm's own toToml writes 20000 as 20000.0, which is no whole number any more. */ -}}
{{- define "postern.tomlValue" -}}
{{- if kindIs "string" . -}}
{{ mustToRawJson . }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else if kindIs "slice" . -}}
[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "postern.tomlValue" $item }}{{ end }}]
{{- else if eq (float64 (floor .)) (float64 .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end }}
{{- end }}

{{- define "postern.toml" -}}
{{- range $section, $keys := . }}
{{- if $keys }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "postern.tomlValue" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end }}

{{- /* The configuration of a component's pods, as YAML by section. */ -}}
{{- define "postern.config" -}}
{{- $v := .root.Values -}}
{{- $config := dict -}}
{{- range $section := list "pop3" "pop3s" "lmtp" "proxy" "admin" "tls" "index" "blob" "pack" "cache" "keys" "node" "metrics" }}
{{- $_ := set $config $section dict }}
{{- end }}
{{- $tls := include "postern.tlsSecret" .root -}}
{{- if has "pop3" .roles }}
{{- $_ := set $config.pop3 "listen" (list (printf "%s:1110" $v.listenAddress)) }}
{{- $_ := set $config.pop3 "plaintext_auth" "never" }}
{{- if $tls }}
{{- $_ := set $config.pop3s "listen" (list (printf "%s:1995" $v.listenAddress)) }}
{{- $_ := set $config.tls "certificate_file" "/etc/postern/tls/tls.crt" }}
{{- $_ := set $config.tls "key_file" "/etc/postern/tls/tls.key" }}
{{- end }}
{{- if $v.tls.extraSecrets }}
{{- $dirs := list }}
{{- range $i, $name := $v.tls.extraSecrets }}{{ $dirs = append $dirs (printf "/etc/postern/tls-extra/%d" $i) }}{{ end }}
{{- $_ := set $config.tls "directories" $dirs }}
{{- end }}
{{- if $v.proxyProtocol.enabled }}
{{- $_ := set $config.pop3 "proxy_protocol" "require" }}
{{- if $tls }}{{ $_ := set $config.pop3s "proxy_protocol" "require" }}{{ end }}
{{- end }}
{{- end }}
{{- if has "lmtp" .roles }}
{{- $_ := set $config.lmtp "listen" (list (printf "%s:1024" $v.listenAddress)) }}
{{- if $v.proxyProtocol.lmtp }}{{ $_ := set $config.lmtp "proxy_protocol" "require" }}{{ end }}
{{- end }}
{{- if $v.proxyProtocol.trustedNetworks }}
{{- $_ := set $config.proxy "trusted_networks" $v.proxyProtocol.trustedNetworks }}
{{- end }}
{{- $_ := set $config.admin "listen" (list (printf "%s:8080" $v.listenAddress)) }}
{{- $_ := set $config.admin "token_file" "/etc/postern/secrets/admin-token/value" }}
{{- $_ := set $config.admin "metrics_public" $v.metrics.public }}
{{- if eq $v.index.kind "postgres" }}
{{- $_ := set $config.index "url_file" "/etc/postern/secrets/index-url/value" }}
{{- end }}
{{- if eq $v.blob.kind "s3" }}
{{- $_ := set $config.blob "kind" "s3" }}
{{- $_ := set $config.blob "bucket" $v.blob.bucket }}
{{- range $key, $value := dict "prefix" $v.blob.prefix "region" $v.blob.region "endpoint" $v.blob.endpoint }}
{{- if $value }}{{ $_ := set $config.blob $key $value }}{{ end }}
{{- end }}
{{- if not (kindIs "invalid" $v.blob.forcePathStyle) }}{{ $_ := set $config.blob "force_path_style" $v.blob.forcePathStyle }}{{ end }}
{{- end }}
{{- if include "postern.masterKeyRef" .root }}
{{- $_ := set $config.keys "master_key_file" "/etc/postern/secrets/master-key/value" }}
{{- if $v.masterKey.otherSecretKeys }}
{{- $others := list }}
{{- range $i, $key := $v.masterKey.otherSecretKeys }}{{ $others = append $others (printf "/etc/postern/secrets/master-key/other-%d" $i) }}{{ end }}
{{- $_ := set $config.keys "other_master_key_files" $others }}
{{- end }}
{{- end }}
{{- $_ := set $config.pack "spool_dir" "/var/lib/postern/spool" }}
{{- if $v.scratch.cacheSize }}
{{- $_ := set $config.cache "dir" "/var/lib/postern/cache" }}
{{- /* A part of the volume is for the file system itself. */ -}}
{{- $amount := regexFind "^[0-9]+" $v.scratch.cacheSize | int64 }}
{{- $unit := get (dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) (regexFind "[MGT]i$" $v.scratch.cacheSize) | int64 }}
{{- $_ := set $config.cache "disk_octets" (div (mul $amount $unit 9) 10) }}
{{- end }}
{{- $_ := set $config.node "roles" .roles }}
{{- $_ := set $config.node "data_dir" "/var/lib/postern/data" }}
{{- $_ := set $config.node "drain_delay" (printf "%ds" (int $v.drain.delaySeconds)) }}
{{- $_ := set $config.node "drain_timeout" (printf "%ds" (int $v.drain.timeoutSeconds)) }}
{{- if $v.metrics.tenantSeries }}{{ $_ := set $config.metrics "tenant_series" true }}{{ end }}
{{- $config = mustMergeOverwrite $config (deepCopy $v.config) (deepCopy .values.config) }}
{{- if not (has "pop3" .roles) }}{{ $config = omit $config "pop3" "pop3s" "tls" }}{{ end }}
{{- if not (has "lmtp" .roles) }}{{ $config = omit $config "lmtp" }}{{ end }}
{{- $config | toYaml }}
{{- end }}
